//! Parses JSON of bounded depth. Called by `response` and `token`. Knows nothing of its meaning.

use miniserde::Deserialize;

/// The maximum depth of arrays and objects. miniserde can't overflow the stack, but each level
/// costs it about 40 bytes: a megabyte of brackets would use up the memory of a small device.
const DEPTH: usize = 128;

/// Some servers and editors write it before text.
pub(crate) const BYTE_ORDER_MARK: char = '\u{feff}';

/// Parses JSON, with or without a byte order mark. `None` if it is not JSON, not of this type, or
/// nested deeper than [`DEPTH`].
pub(crate) fn read<T: Deserialize>(json: &str) -> Option<T> {
    let json = json.strip_prefix(BYTE_ORDER_MARK).unwrap_or(json);
    if is_deep(json) {
        return None;
    }
    miniserde::json::from_str(json).ok()
}

fn is_deep(json: &str) -> bool {
    let (mut depth, mut in_string) = (0_usize, false);
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' => drop(bytes.next()),
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_strings() {
        for (json, expected) in [
            ("[".repeat(DEPTH), false),
            ("[".repeat(DEPTH + 1), true),
            ("{\"a\":[".repeat(DEPTH / 2), false),
            ("{\"a\":[".repeat(DEPTH / 2 + 1), true),
            ("[[]]".repeat(DEPTH), false),
            (format!("\"{}\"", "[".repeat(200)), false),
            (format!("\"\\\"{}\"", "[".repeat(200)), false),
            (format!("\"\\\\\"{}", "[".repeat(200)), true),
            ("]".repeat(200), false),
        ] {
            assert_eq!(is_deep(&json), expected, "{json}");
        }
    }

    #[test]
    fn json_as_deep_as_allowed_is_read() {
        let json = |depth| format!("{{\"x\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(read::<miniserde::json::Value>(&json(DEPTH - 1)).is_some());
        assert!(read::<miniserde::json::Value>(&json(DEPTH)).is_none());
    }
}
