//! What the program tells its caller besides words: the exit codes, all of them, in one place.

use std::process::ExitCode;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything asked for was done.
    Ok,
    /// It was not; the reason is on stderr. casync and its callers know only this one.
    Failure,
    /// The command line was wrong; nothing was begun.
    Usage,
    /// A person ended it (SIGINT); what was done so far is kept and found again by the next run.
    Interrupted,
    /// A service manager ended it (SIGTERM), likewise.
    Terminated,
}

impl Exit {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::Interrupted => 130,
            Exit::Terminated => 143,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}
