//! A second, simple reader of responses. The crate must read a good response as this one does.

/// A response.
#[derive(Debug)]
pub(crate) struct Reference {
    /// The status of the final response.
    pub(crate) status: Option<u16>,
    pub(crate) content: Content,
}

#[derive(Debug)]
pub(crate) enum Content {
    Whole(Vec<u8>),
    /// Truncated, badly chunked, or after a head that a 2xx response must not have.
    Unusable,
}

/// Reads these bytes, after which the server closes the connection or does not.
pub(crate) fn read(bytes: &[u8], is_closed: bool) -> Reference {
    let unusable = |status| Reference { status, content: Content::Unusable };
    let mut rest = bytes;
    let (status, fields, is_valid) = loop {
        let Some(line) = line(&mut rest) else {
            // Not even a status line has ended, but its part may have a status.
            return unusable(status(rest));
        };
        let mut is_valid = line.starts_with(b"HTTP/1.");
        let status = status(line);
        let Some(fields) = fields(&mut rest, &mut is_valid) else { return unusable(status) };
        match status {
            None => return unusable(None),
            // An interim response. Its version and its fields don't matter.
            Some(100..=199) => {}
            Some(status) => break (status, fields, is_valid),
        }
    };
    let values = |name| -> Vec<&str> {
        let named = fields.iter().filter(|field| field.0 == name);
        named.flat_map(|field| field.1.split(',').map(str::trim)).collect()
    };
    let content = match (&values("transfer-encoding")[..], &values("content-length")[..]) {
        _ if !is_valid => None,
        _ if status == 204 || status == 304 => Some(Vec::new()),
        ([coding], _) if coding.eq_ignore_ascii_case("chunked") => chunks(rest),
        ([], []) => is_closed.then(|| rest.to_vec()),
        ([], [length, others @ ..]) if others.iter().all(|other| other == length) => {
            let length = length.parse::<usize>().ok();
            length.and_then(|length| rest.get(..length)).map(<[u8]>::to_vec)
        }
        _ => None,
    };
    Reference { status: Some(status), content: content.map_or(Content::Unusable, Content::Whole) }
}

/// Returns the fields of a head, or of trailers, by their names in lower case. `None`: they are
/// truncated.
fn fields(rest: &mut &[u8], is_valid: &mut bool) -> Option<Vec<(String, String)>> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let mut fields: Vec<(String, String)> = Vec::new();
    loop {
        let line = String::from_utf8_lossy(line(rest)?);
        if line.is_empty() {
            return Some(fields);
        }
        match (line.split_once(':'), fields.last_mut()) {
            // A continued field (obs-fold).
            (_, Some((_, value))) if line.starts_with([' ', '\t']) => {
                *value = [value.trim(), line.trim()].join(" ");
            }
            (Some((name, value)), _) => {
                let name = name.trim_end_matches([' ', '\t']).to_lowercase();
                *is_valid &= !name.is_empty() && name.chars().all(is_token);
                fields.push((name, value.trim().to_owned()));
            }
            (None, _) => *is_valid = false,
        }
    }
}

/// The next complete line, without its line end.
fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let line = &rest[..end];
    *rest = &rest[end + 1..];
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

fn status(line: &[u8]) -> Option<u16> {
    let text = String::from_utf8_lossy(line);
    text.split(' ').nth(1)?.parse().ok()
}

/// Chunked content (RFC 9112, section 7.1). `None`: it is truncated or badly chunked.
fn chunks(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let size = std::str::from_utf8(line(&mut rest)?).ok()?.split(';').next()?.trim();
        let is_hex = size.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = usize::from_str_radix(size, 16).ok().filter(|_| is_hex)?;
        if size == 0 {
            return fields(&mut rest, &mut true).map(|_| content);
        }
        content.extend(rest.get(..size)?);
        rest = &rest[size..];
        rest = rest.strip_prefix(b"\r").unwrap_or(rest).strip_prefix(b"\n")?;
    }
}
