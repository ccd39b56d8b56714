//! The rules of `.caexclude` files: which names a directory leaves out, and what its subdirectories inherit. Not
//! gitignore's rules: any slash anchors a rule, also one at its end, and any negation wins.

use std::sync::Arc;

use super::pattern;

/// The name of the files that have the rules.
pub const FILE: &[u8] = b".caexclude";

/// The longest line that is taken, in bytes.
const LONGEST: usize = 64 << 10;

/// The rules that hold in one directory.
#[derive(Debug, Clone, Default)]
pub struct Rules(Vec<Arc<Rule>>);

#[derive(Debug)]
struct Rule {
    pattern: Vec<u8>,
    directories_only: bool,
    anchored: bool,
    then: Then,
}

#[derive(Debug)]
enum Then {
    Exclude,
    Keep,
    /// What has this name is kept, but has a rule itself.
    Inside(Arc<Rule>),
}

/// What cannot be a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// A line without a name, or with `.` or `..` as one.
    #[error("line {0}: a rule is names or patterns, separated by slashes, and none of them is empty, . or ..")]
    Name(usize),
    /// A line that is too long.
    #[error("line {0}: longer than {LONGEST} bytes")]
    TooLong(usize),
}

impl Rules {
    /// Adds the rules of a file.
    ///
    /// # Errors
    /// When a line is no rule.
    pub fn add(&mut self, file: &[u8]) -> Result<(), RuleError> {
        for (number, line) in file.split(|byte| *byte == b'\n').enumerate() {
            if line.len() >= LONGEST {
                return Err(RuleError::TooLong(number + 1));
            }
            let blank = |byte: &u8| b" \t\r".contains(byte);
            let start = line.iter().position(|byte| !blank(byte)).unwrap_or(line.len());
            let end = line.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
            if let Some(rule) = rule(&line[start..end]) {
                self.0.push(rule.ok_or(RuleError::Name(number + 1))?);
            }
        }
        Ok(())
    }

    /// Whether the name is left out, and the rules that hold inside if it is a directory and not left out.
    pub fn apply(&self, name: &[u8], directory: bool) -> (bool, Rules) {
        let (mut exclude, mut keep) = (false, false);
        let mut inside = Rules::default();
        for rule in &self.0 {
            if !rule.anchored && directory {
                inside.0.push(rule.clone());
            }
            if rule.directories_only && !directory || !pattern::matches(&rule.pattern, name) {
                continue;
            }
            match &rule.then {
                Then::Exclude => exclude = true,
                Then::Keep => keep = true,
                Then::Inside(rule) => inside.0.push(rule.clone()),
            }
        }
        (exclude && !keep, inside)
    }
}

/// One line without the space around it. `None` for a line that is no rule, `Some(None)` for one that cannot be.
fn rule(line: &[u8]) -> Option<Option<Arc<Rule>>> {
    if line.is_empty() || line[0] == b'#' {
        return None;
    }
    let (negative, line) = line.strip_prefix(b"!").map_or((false, line), |rest| (true, rest));
    let anchored = line.contains(&b'/');
    let ends_in_slash = line.last() == Some(&b'/');
    let names: Vec<&[u8]> = line.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
    if names.is_empty() || names.iter().any(|name| *name == b"." || *name == b"..") {
        return Some(None);
    }
    let mut rule = None;
    for (place, name) in names.iter().enumerate().rev() {
        let directories_only = ends_in_slash || place + 1 < names.len();
        let then = rule.map_or_else(|| Then::from(negative), Then::Inside);
        rule = Some(Arc::new(Rule { pattern: name.to_vec(), directories_only, anchored, then }));
    }
    Some(rule)
}

impl From<bool> for Then {
    fn from(negative: bool) -> Self {
        if negative { Then::Keep } else { Then::Exclude }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Rules {
        let mut rules = Rules::default();
        rules.add(text.as_bytes()).unwrap();
        rules
    }

    fn excluded(rules: &Rules, path: &str) -> bool {
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        let (out, inside) = rules.apply(first.as_bytes(), !rest.is_empty() || path.ends_with('/'));
        out || !rest.is_empty() && excluded(&inside, rest)
    }

    #[test]
    fn slashes_anchor_and_negations_win() {
        let rules = rules("# comment\n\n*.o\n/sub/anch\ndirpat/\n!special.o\n  trailing.txt  \npath/to/file\nq?\n");
        for (path, expected) in [
            ("a.o", true),
            (".hidden.o", false),
            ("anch", false),
            ("sub/anch", true),
            ("dirpat/", true),
            ("sub/dirpat/", false),
            ("special.o", false),
            ("sub/special.o", false),
            ("sub/inner/d.o", true),
            ("trailing.txt", true),
            ("path/to/file", true),
            ("path/to/other", false),
            ("q1", true),
        ] {
            assert_eq!(excluded(&rules, path), expected, "{path}");
        }
    }

    #[test]
    fn what_is_no_rule_is_refused_by_its_line() {
        for (text, line) in [("a\n..\n", 2), ("/", 1), ("a\n\n!\n", 3), ("a/./b", 1)] {
            assert_eq!(Rules::default().add(text.as_bytes()), Err(RuleError::Name(line)), "{text:?}");
        }
        assert_eq!(Rules::default().add(&vec![b'x'; 65536]), Err(RuleError::TooLong(1)));
    }
}
