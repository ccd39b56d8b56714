//! Shell patterns as casync's `.caexclude` has them: `fnmatch` with FNM_PERIOD in the C locale, byte by byte.

/// Whether a name matches. A period at its beginning is matched by nothing but a period.
pub(super) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on when a guess about the last star was wrong: behind it, with one more byte taken by it.
    let mut star = None;
    loop {
        let leading = n == 0 && name.first() == Some(&b'.');
        let step = match pattern.get(p) {
            Some(b'*') if !leading => {
                star = Some((p + 1, n));
                p += 1;
                continue;
            }
            None if n == name.len() => return true,
            None | Some(b'*') => None,
            Some(_) => name.get(n).and_then(|byte| single(&pattern[p..], *byte, leading)),
        };
        match (step, star) {
            (Some(length), _) => {
                p += length;
                n += 1;
            }
            (None, Some((behind, taken))) if taken < name.len() => {
                star = Some((behind, taken + 1));
                (p, n) = (behind, taken + 1);
            }
            (None, _) => return false,
        }
    }
}

/// How much of the pattern matches this byte; `None` if it does not.
fn single(pattern: &[u8], byte: u8, leading: bool) -> Option<usize> {
    match pattern {
        [b'?', ..] => (!leading).then_some(1),
        [b'\\', literal, ..] => (*literal == byte).then_some(2),
        [b'\\'] => None,
        [b'[', rest @ ..] => match bracket(rest, byte) {
            Some((_, _)) if leading => None,
            Some((length, true)) => Some(1 + length),
            Some((_, false)) => None,
            // Without its end it is an ordinary character.
            None => (byte == b'[').then_some(1),
        },
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// Reads a bracket expression behind its `[`: how long it is, its `]` included, and whether the byte matches. `None`: it
/// does not end.
fn bracket(pattern: &[u8], byte: u8) -> Option<(usize, bool)> {
    let negated = matches!(pattern.first(), Some(b'!' | b'^'));
    let first = usize::from(negated);
    let mut at = first;
    let mut found = false;
    loop {
        match pattern.get(at)? {
            b']' if at > first => return Some((at + 1, found != negated)),
            b'[' if pattern.get(at + 1) == Some(&b':') => {
                let end = pattern[at + 2..].windows(2).position(|pair| pair == b":]");
                let Some(end) = end else {
                    found |= byte == b'[';
                    at += 1;
                    continue;
                };
                found |= is_class(&pattern[at + 2..at + 2 + end], byte);
                at += end + 4;
            }
            _ => {
                let (low, next) = member(pattern, at)?;
                at = next;
                let range = pattern.get(at) == Some(&b'-') && pattern.get(at + 1).is_some_and(|byte| *byte != b']');
                let high = if range {
                    let (high, next) = member(pattern, at + 1)?;
                    at = next;
                    high
                } else {
                    low
                };
                found |= (low..=high).contains(&byte);
            }
        }
    }
}

/// One character of a bracket expression, perhaps escaped, or written as `[=x=]` or `[.x.]`; and where the next begins.
fn member(pattern: &[u8], at: usize) -> Option<(u8, usize)> {
    match &pattern[at..] {
        [b'\\', byte, ..] => Some((*byte, at + 2)),
        [b'[', open @ (b'=' | b'.'), byte, close, b']', ..] if open == close => Some((*byte, at + 5)),
        [byte, ..] => Some((*byte, at + 1)),
        [] => None,
    }
}

fn is_class(name: &[u8], byte: u8) -> bool {
    match name {
        b"alnum" => byte.is_ascii_alphanumeric(),
        b"alpha" => byte.is_ascii_alphabetic(),
        b"blank" => byte == b' ' || byte == b'\t',
        b"cntrl" => byte.is_ascii_control(),
        b"digit" => byte.is_ascii_digit(),
        b"graph" => byte.is_ascii_graphic(),
        b"lower" => byte.is_ascii_lowercase(),
        b"print" => byte.is_ascii_graphic() || byte == b' ',
        b"punct" => byte.is_ascii_punctuation(),
        b"space" => byte.is_ascii_whitespace() || byte == 0x0b,
        b"upper" => byte.is_ascii_uppercase(),
        b"xdigit" => byte.is_ascii_hexdigit(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_what_fnmatch_says_they_match() {
        for (pattern, name, expected) in [
            ("*.o", "a.o", true),
            ("*.o", ".hidden.o", false),
            (".*.o", ".hidden.o", true),
            ("?hidden.o", ".hidden.o", false),
            ("[.]x", ".x", false),
            ("q?", "q1", true),
            ("q?", "q", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("*", "", true),
            ("*.*", "a.", true),
            ("[a-c]", "b", true),
            ("[!a-c]", "b", false),
            ("[^a-c]", "d", true),
            ("[]x]", "]", true),
            ("[a", "[a", true),
            ("[a-]", "-", true),
            (r"[\]]", "]", true),
            ("[[:digit:]_]x", "7x", true),
            ("[[:digit:]_]x", "ax", false),
            (r"we\[ird\]", "we[ird]", true),
            (r"\*", "*", true),
            (r"\*", "a", false),
            ("\\", "\\", false),
            ("UPPER", "upper", false),
            ("*a*a*a*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
