//! What several subcommands need for trees: which features go into an archive, and how owners' numbers change.

use clap::ArgAction;

use super::parse_boolean;
use crate::format::digest::Digest;
use crate::format::features;
use crate::tree::Settings;
use crate::tree::owners::Shift;

/// Options that say what of a tree is archived.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Trees")]
pub struct TreeArgs {
    /// Store these features of files, by casync's names, such as best, unix, fat or xattrs; may be repeated
    /// [default: all].
    #[arg(long, value_name = "FEATURE", value_parser = features::parse)]
    with: Vec<u64>,
    /// Do not store these; may be repeated.
    #[arg(long, value_name = "FEATURE", value_parser = features::parse)]
    without: Vec<u64>,
    /// Leave out what has `chattr +d`.
    #[arg(long, value_name = "BOOL", default_value = "yes", value_parser = parse_boolean, action = ArgAction::Set)]
    exclude_nodump: bool,
    /// Leave out other file systems that are mounted in the tree, mount points included.
    #[arg(long, value_name = "BOOL", default_value = "no", value_parser = parse_boolean, action = ArgAction::Set)]
    exclude_submounts: bool,
    /// Leave out what files named .caexclude say.
    #[arg(long, value_name = "BOOL", default_value = "yes", value_parser = parse_boolean, action = ArgAction::Set)]
    exclude_file: bool,
    #[command(flatten)]
    shift: ShiftArgs,
}

/// Options that say how owners' numbers change between file system and archive.
#[derive(Debug, Clone, clap::Args)]
pub struct ShiftArgs {
    /// Subtract this from the numbers of owners on the way into an archive, and add it on the way out; yes and no turn
    /// shifting on and off [default: no].
    #[arg(long, value_name = "BOOL|N", value_parser = parse_shift)]
    uid_shift: Option<(bool, Option<u32>)>,
    /// Take the numbers of owners modulo this in an archive [default: 65536, if shifting is on].
    #[arg(long, value_name = "BOOL|N", value_parser = parse_range)]
    uid_range: Option<(bool, Option<u32>)>,
}

impl TreeArgs {
    /// Whether any of it was asked for.
    pub fn is_given(&self) -> bool {
        let chosen = !self.with.is_empty() || !self.without.is_empty();
        let excluded = !self.exclude_nodump || self.exclude_submounts || !self.exclude_file;
        chosen || excluded || self.shift.is_given()
    }

    /// What to archive, in the digest's name.
    pub fn settings(&self, digest: Digest) -> Settings {
        let extra = [
            (self.exclude_nodump, features::EXCLUDE_NODUMP),
            (self.exclude_submounts, features::EXCLUDE_SUBMOUNTS),
            (self.exclude_file, features::EXCLUDE_FILE),
            (digest == Digest::Sha512_256, features::SHA512_256),
        ];
        let extra = extra.iter().filter(|(set, _)| *set).fold(0, |all, (_, bit)| all | bit);
        let features = features::normalised(features::select(&self.with, &self.without) | extra);
        Settings { features, shift: self.shift.shift() }
    }
}

impl ShiftArgs {
    /// Whether any of it was asked for.
    pub fn is_given(&self) -> bool {
        self.uid_shift.is_some() || self.uid_range.is_some()
    }

    /// The shift meant. Naming either part turns it on.
    pub fn shift(&self) -> Shift {
        let on = self.uid_range.or(self.uid_shift).is_some_and(|(on, _)| on);
        let number = |given: Option<(bool, Option<u32>)>| given.and_then(|(_, number)| number);
        match on {
            true => {
                Shift { shift: number(self.uid_shift).unwrap_or(0), range: number(self.uid_range).unwrap_or(65536) }
            }
            false => Shift::default(),
        }
    }
}

fn parse_shift(word: &str) -> Result<(bool, Option<u32>), String> {
    match word.parse() {
        Ok(shift) if shift != 0xffff && shift != u32::MAX => Ok((true, Some(shift))),
        _ => Ok((parse_boolean(word).map_err(|_| "say yes, no, or a number of 32 bits that is an owner's")?, None)),
    }
}

/// 2³² is 0 in 32 bits, which [`Shift`] takes for it.
fn parse_range(word: &str) -> Result<(bool, Option<u32>), String> {
    match word.parse::<u64>() {
        Ok(range @ 1..=0x1_0000_0000) => Ok((true, Some(range as u32))),
        _ => Ok((parse_boolean(word).map_err(|_| "say yes, no, or a number from 1 to 4294967296")?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifting_is_on_when_either_part_is_named() {
        let shift = |uid_shift: Option<&str>, uid_range: Option<&str>| {
            let (uid_shift, uid_range) =
                (uid_shift.map(|word| parse_shift(word).unwrap()), uid_range.map(|word| parse_range(word).unwrap()));
            ShiftArgs { uid_shift, uid_range }.shift()
        };
        assert_eq!(shift(None, None), Shift::default());
        assert_eq!(shift(Some("no"), None), Shift::default());
        assert_eq!(shift(Some("yes"), None), Shift { shift: 0, range: 65536 });
        assert_eq!(shift(Some("1000"), Some("4294967296")), Shift { shift: 1000, range: 0 });
        assert_eq!(shift(None, Some("70000")), Shift { shift: 0, range: 70000 });
        assert!(parse_shift("maybe").is_err() && parse_range("4294967297").is_err());
    }
}
