//! Text of a server made fit for a message: short, on one line, and without secrets.

/// What stands where a secret stood.
const REDACTED: &str = "[redacted]";

/// The most characters of remote text that a message shows.
const EXCERPT: usize = 200;

/// How many bytes of remote text are looked at for it.
const SEEN: usize = 8 * 1024;

/// How many characters may be compared to find secrets in them. More are needed only for text that
/// was made to: such as backslashes, of which each may stand for itself or escape the next.
const WORK: usize = 1 << 20;

/// Remote text made fit for a message: secrets redacted, then made short and one line.
pub(crate) fn excerpt(text: &str, secrets: &[&str]) -> String {
    clean(&redact(text, secrets))
}

/// `text` with blanks and control characters folded into single blanks, and cut.
pub(crate) fn clean(text: &str) -> String {
    let mut clean = String::new();
    let mut count = 0;
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        for (i, c) in word.chars().enumerate() {
            if count == EXCERPT {
                clean.push_str("...");
                return clean;
            }
            if i == 0 && !clean.is_empty() {
                clean.push(' ');
            }
            // What reorders or hides text on a terminal has no place in a message.
            let hides = matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}');
            clean.push(if hides { '?' } else { c });
            count += 1;
        }
    }
    clean
}

/// The beginning of `text` without the secrets, in whatever form they are echoed.
pub(crate) fn redact(text: &str, secrets: &[&str]) -> String {
    let most = text.len().min(SEEN);
    let mut work = WORK;
    // Marked first, because one may begin within another.
    let mut is_secret = vec![false; most];
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        for start in 0..most {
            // It may end behind the part that is seen.
            if let Some(length) = echo(secret, &text.as_bytes()[start..], &mut work) {
                is_secret[start..most.min(start + length)].fill(true);
            }
        }
    }
    if work == 0 {
        return REDACTED.to_owned();
    }
    let mut clean = String::new();
    let mut was_secret = false;
    for (i, c) in text.char_indices().take_while(|(i, _)| *i < most) {
        if !is_secret[i] {
            clean.push(c);
        } else if !was_secret {
            clean.push_str(REDACTED);
        }
        was_secret = is_secret[i];
    }
    clean
}

/// How long the secret is that `text` starts with, if it does: each of its characters as it is,
/// or escaped for a URL, a form, JSON, HTML or XML. Takes from `work` what it costs, and gives up
/// when there is none left.
fn echo(secret: &str, text: &[u8], work: &mut usize) -> Option<usize> {
    // Almost everywhere not even the first character stands: nothing is allocated there.
    if forms(secret.chars().next()?, text) == [None, None] {
        return None;
    }
    // A `%` may stand for itself or begin an escape: several readings go on side by side.
    let (mut ends, mut next) = (vec![0], Vec::new());
    for c in secret.chars() {
        *work = work.saturating_sub(ends.len());
        if *work == 0 {
            return None;
        }
        for end in ends.drain(..) {
            for length in forms(c, &text[end..]).into_iter().flatten() {
                // Kept in order: a sort of its own would be 3 kB of code.
                if let Err(place) = next.binary_search(&(end + length)) {
                    next.insert(place, end + length);
                }
            }
        }
        if next.is_empty() {
            return None;
        }
        std::mem::swap(&mut ends, &mut next);
    }
    ends.into_iter().max()
}

/// The lengths of all forms of `c` that `text` starts with.
fn forms(c: char, text: &[u8]) -> [Option<usize>; 2] {
    let mut utf8 = [0; 4];
    let utf8 = c.encode_utf8(&mut utf8).as_bytes();
    let code = Some(u32::from(c));
    let plain = text.starts_with(utf8) || c == ' ' && text.first() == Some(&b'+');
    let escaped = match text {
        [b'%', ..] => {
            let mut parts = text.chunks(3);
            let is_all = utf8.iter().all(|&byte| match parts.next() {
                Some([b'%', digits @ ..]) => number(digits.get(..2), 16) == Some(byte.into()),
                _ => false,
            });
            is_all.then_some(3 * utf8.len())
        }
        [b'\\', b'u', digits @ ..] if number(digits.get(..4), 16) == code => Some(6),
        [b'\\', other, ..] => (Some(u32::from(*other)) == code).then_some(2),
        [b'&', rest @ ..] => {
            let end = rest.iter().take(10).position(|&other| other == b';');
            let meant = end.and_then(|end| match &rest[..end] {
                [b'#', b'x' | b'X', digits @ ..] => number(Some(digits), 16),
                [b'#', digits @ ..] => number(Some(digits), 10),
                b"amp" => Some('&'.into()),
                b"lt" => Some('<'.into()),
                b"gt" => Some('>'.into()),
                b"quot" => Some('"'.into()),
                b"apos" => Some('\''.into()),
                _ => None,
            });
            end.filter(|_| meant == code).map(|end| end + 2)
        }
        _ => None,
    };
    [plain.then_some(utf8.len()), escaped]
}

fn number(digits: Option<&[u8]>, radix: u32) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(digits?).ok()?, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpt_redacts_every_form_of_a_secret_before_it_cuts() {
        let secret = "p w+/\"<x>";
        for echoed in [
            "p w+/\"<x>",
            "p+w%2B%2F%22%3Cx%3E",
            "p%20w%2B%2F%22%3Cx%3E",
            "p w+/\\\"<x>",
            "p w+\\/\\\"<x>",
            "p w+/\"&lt;x&gt;",
            "p w+/&quot;&lt;x&gt;",
            "p%20w%2b%2f%22%3cx%3e",
            "p w\\u002B\\/\\u0022\\u003cx\\u003E",
            "p w&#43;&#x2F;&#34;&lt;x&#62;",
        ] {
            let text = format!("{}{echoed} rest", "a".repeat(195));
            let shown = excerpt(&text, &[secret]);
            assert_eq!(shown, format!("{}{}...", "a".repeat(195), &REDACTED[..5]));
        }
    }

    #[test]
    fn a_secret_need_not_be_ascii() {
        let text = "p@ss/w\u{fc}rd p%40ss%2Fw%C3%BCrd p@ss/w&#252;rd p@ss/w&#xFC;rd p@ss/w\\u00fcrd \u{fc}";
        assert_eq!(
            redact(text, &["p@ss/w\u{fc}rd"]),
            format!("{REDACTED} {REDACTED} {REDACTED} {REDACTED} {REDACTED} \u{fc}")
        );
    }

    #[test]
    fn text_made_to_be_hard_to_compare_is_redacted_whole() {
        let text = "\\".repeat(SEEN);
        let secret = "\\".repeat(1000);
        assert_eq!(redact(&text, &[&secret]), REDACTED);
        // Ordinary text is not, however often a secret nearly stands in it.
        let text = format!("{}b", "a".repeat(SEEN));
        let secret = "a".repeat(60) + "c";
        assert_eq!(redact(&text, &[&secret]).len(), SEEN);
    }

    #[test]
    fn secrets_that_overlap_are_redacted_whole() {
        let secrets = ["jas", "jas-9f8e", "8e7d", "%25a"];
        assert_eq!(redact("a jas-9f8e7d b", &secrets), "a [redacted] b");
        assert_eq!(
            redact("jasjas %25a %2525a é", &secrets),
            "[redacted] [redacted] [redacted] é"
        );
    }

    #[test]
    fn excerpt_is_one_line_without_control_characters() {
        let text = " <html>\r\n\t<b>no\u{7}\u{1b}[31m\u{202e}</b>\n";
        assert_eq!(excerpt(text, &[]), "<html> <b>no [31m?</b>");
    }
}
