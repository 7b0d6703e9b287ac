//! Where the content of an answer ends, and how it is coded, by its header fields.

/// How the end of the content is found ([RFC 9112, section
/// 6.3](https://www.rfc-editor.org/rfc/rfc9112#section-6.3)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// Refuses a content coding, which was not asked for: it would be taken for the content itself.
pub(crate) fn coding(fields: &[(String, String)]) -> Option<String> {
    let (_, coding) = fields.iter().find(|(name, value)| {
        name.eq_ignore_ascii_case("content-encoding")
            && !value.is_empty()
            && !value.eq_ignore_ascii_case("identity")
    })?;
    // A name that is not known is not shown: a server may have put anything there.
    let known = ["gzip", "deflate", "compress", "br", "zstd"];
    let name = known
        .into_iter()
        .find(|known| known.eq_ignore_ascii_case(coding));
    let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
    Some(format!(
        "the content is encoded{name}, which was not asked for"
    ))
}

/// Finds out where the content of an answer with these fields ends.
pub(crate) fn framing(fields: &[(String, String)]) -> Result<Framing, &'static str> {
    let values = |name: &'static str| {
        let named = move |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        fields.iter().filter(named).map(|(_, value)| value.as_str())
    };
    let mut codings = values("transfer-encoding");
    if let Some(coding) = codings.next() {
        // minreq would read another one, or a list, as if it were not there.
        if codings.next().is_some() || !coding.eq_ignore_ascii_case("chunked") {
            return Err("the answer's Transfer-Encoding is not `chunked`");
        }
        return Ok(Framing::Chunked);
    }
    let mut lengths = values("content-length");
    let Some(length) = lengths.next() else {
        return Ok(Framing::UntilClose);
    };
    // minreq would take the last of several, and a sign.
    if lengths.any(|other| other != length) {
        return Err("the answer has two different Content-Length fields");
    }
    match length.parse() {
        Ok(number) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(Framing::Length(number))
        }
        _ => Err(BAD_LENGTH),
    }
}

pub(crate) const BAD_LENGTH: &str =
    "the answer's Content-Length is not a number that this device can count";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_the_end_of_a_content_is_found() {
        let chunked = "the answer's Transfer-Encoding is not `chunked`";
        let twice = "the answer has two different Content-Length fields";
        for (list, expected) in [
            (&[][..], Ok(Framing::UntilClose)),
            (&[("content-length", "5")], Ok(Framing::Length(5))),
            (
                &[("Content-Length", "5"), ("content-length", "5")],
                Ok(Framing::Length(5)),
            ),
            (
                &[("content-length", "5"), ("content-length", "6")],
                Err(twice),
            ),
            (&[("content-length", "5, 5")], Err(BAD_LENGTH)),
            (&[("content-length", "+5")], Err(BAD_LENGTH)),
            (&[("content-length", "")], Err(BAD_LENGTH)),
            (
                &[("content-length", "18446744073709551616")],
                Err(BAD_LENGTH),
            ),
            (&[("transfer-encoding", "chunked")], Ok(Framing::Chunked)),
            (
                &[("transfer-encoding", "Chunked"), ("content-length", "5")],
                Ok(Framing::Chunked),
            ),
            (&[("transfer-encoding", "gzip, chunked")], Err(chunked)),
            (
                &[
                    ("transfer-encoding", "gzip"),
                    ("transfer-encoding", "chunked"),
                ],
                Err(chunked),
            ),
        ] {
            let fields: Vec<_> = list
                .iter()
                .map(|(n, v)| ((*n).into(), (*v).into()))
                .collect();
            assert_eq!(framing(&fields), expected, "{list:?}");
        }
    }
}
