//! What can be told from the bytes of an exchange while they pass.

/// The content types of TLS records ([RFC 8446, section
/// 5.1](https://www.rfc-editor.org/rfc/rfc8446#section-5.1)).
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// No `ServerHello` of TLS 1.3 is shorter that follows a `HelloRetryRequest` and, for middleboxes,
/// a change of the cipher ([RFC 8446, appendix
/// D.4](https://www.rfc-editor.org/rfc/rfc8446#appendix-D.4)): it has 120 bytes and more. No
/// `Finished` of TLS 1.2, which is encrypted, is longer than 96.
const SERVER_HELLO: usize = 100;

/// What a record of encrypted data holds besides the data: the tag, of 16 bytes with nearly every
/// cipher, and in TLS 1.3 the content type.
const TAG: usize = 16;
const TAG_AND_TYPE: usize = TAG + 1;

/// An encrypted alert of TLS 1.3: two bytes.
const ALERT_AS_DATA: usize = 2 + TAG_AND_TYPE;

/// How long a header section or trailers may be.
pub(crate) const HEAD_LIMIT: usize = 16 * 1024;

/// How many lines a header section or trailers may have, where they can be seen: over plain HTTP.
/// Each costs minreq about 100 bytes of memory, however short it is.
pub(crate) const LINE_LIMIT: usize = 256;

/// The records of one direction of a TLS connection.
#[derive(Default)]
pub(crate) struct Records {
    header: [u8; 5],
    /// How much of the header is there.
    have: usize,
    /// How much of the record is still to come.
    to_come: usize,
    /// How much of that is no data.
    overhead: usize,
    has_changed_cipher: bool,
    /// In TLS 1.2 alerts show their type, and what follows the change is the end of the handshake.
    is_tls12: bool,
}

impl Records {
    /// Goes on with these bytes; tells how many of them may be data, `None` if no encrypted data
    /// is among them.
    pub(crate) fn pass(&mut self, mut bytes: &[u8]) -> Option<usize> {
        let mut data = None;
        while let Some((&first, rest)) = bytes.split_first() {
            if self.to_come > 0 {
                let n = self.to_come.min(bytes.len());
                // The rest of a record that began in an earlier piece counts as well.
                if self.header[0] == APPLICATION_DATA {
                    let overhead = n.min(self.overhead);
                    self.overhead -= overhead;
                    data = Some(data.unwrap_or(0) + n - overhead);
                }
                self.to_come -= n;
                bytes = &bytes[n..];
                continue;
            }
            self.header[self.have] = first;
            self.have += 1;
            bytes = rest;
            if self.have == self.header.len() {
                self.have = 0;
                self.to_come = self.length();
                self.has_changed_cipher |= self.header[0] == CHANGE_CIPHER_SPEC;
                self.is_tls12 |= self.has_changed_cipher
                    && self.header[0] == HANDSHAKE
                    && self.length() < SERVER_HELLO;
                self.overhead = if self.is_tls12 { TAG } else { TAG_AND_TYPE };
            }
        }
        data
    }

    /// The last record is an alert that shows its type: any in TLS 1.2, and in TLS 1.3 one in the
    /// open.
    pub(crate) fn is_alert(&self) -> bool {
        self.header[0] == ALERT
    }

    /// The length of the last record, header included, if it is complete and may be a
    /// `close_notify`, the end of TLS. (Alerts in the open are those of a handshake that failed.)
    pub(crate) fn possible_end(&self) -> Option<usize> {
        let is_complete = self.have == 0 && self.to_come == 0;
        let may_end = match self.header[0] {
            ALERT => self.length() > 2,
            APPLICATION_DATA => !self.is_tls12 && self.length() == ALERT_AS_DATA,
            _ => false,
        };
        (is_complete && may_end).then(|| self.header.len() + self.length())
    }

    fn length(&self) -> usize {
        usize::from(u16::from_be_bytes([self.header[3], self.header[4]]))
    }
}

/// An answer over plain HTTP: the end of its header section, with the same idea of a line as
/// minreq, and the end of its content if that is chunked ([RFC 9112, section
/// 7.1](https://www.rfc-editor.org/rfc/rfc9112#section-7.1)), for which minreq takes a cut, too.
#[derive(Default)]
pub(crate) struct Answer {
    part: Part,
    /// The lines of the header section, or of the trailers, that have ended.
    lines: usize,
    trailers: usize,
    /// More lines than [`LINE_LIMIT`] (its bytes are limited as it is handed over).
    pub(crate) has_long_head: bool,
    /// More lines, or more bytes than [`HEAD_LIMIT`].
    pub(crate) has_long_trailers: bool,
    /// Of the line that has not ended.
    length: usize,
    last: u8,
}

#[derive(Default)]
enum Part {
    #[default]
    Head,
    ChunkSize {
        size: u64,
        has_digit: bool,
        has_ended: bool,
    },
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// Behind the last chunk.
    End,
    /// Not chunked, or not rightly.
    Other,
}

const CHUNK_SIZE: Part = Part::ChunkSize {
    size: 0,
    has_digit: false,
    has_ended: false,
};

impl Answer {
    pub(crate) fn has_head_ended(&self) -> bool {
        !matches!(self.part, Part::Head)
    }

    /// The last chunk and the trailers behind it have been seen, if the content is chunked.
    pub(crate) fn has_last_chunk_ended(&self) -> bool {
        matches!(self.part, Part::End)
    }

    /// Goes on with these bytes; tells how many of them are the head's.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut head = 0;
        while head < bytes.len() && !self.has_head_ended() {
            self.pass_byte(bytes[head]);
            head += 1;
        }
        self.pass_content(&bytes[head..]);
        head
    }

    fn pass_content(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            bytes = match self.part {
                Part::Chunk(size) => {
                    let n = usize::try_from(size).map_or(bytes.len(), |size| size.min(bytes.len()));
                    self.part = match size - n as u64 {
                        0 => Part::ChunkEnd,
                        size => Part::Chunk(size),
                    };
                    &bytes[n..]
                }
                Part::End | Part::Other => return,
                _ => {
                    self.pass_byte(byte);
                    rest
                }
            };
        }
    }

    fn pass_byte(&mut self, byte: u8) {
        match &mut self.part {
            Part::Head => {
                // The first line is the status line, empty or not.
                if self.ends_line(byte) && self.lines > 1 {
                    self.part = CHUNK_SIZE;
                    self.lines = 0;
                }
            }
            Part::ChunkSize {
                size,
                has_digit,
                has_ended,
            } => {
                let digit = char::from(byte).to_digit(16);
                match (byte, digit) {
                    (b'\n', _) if *has_digit => {
                        self.part = match *size {
                            0 => Part::Trailers,
                            size => Part::Chunk(size),
                        };
                    }
                    (_, Some(digit)) if !*has_ended && *size >> 60 == 0 => {
                        *size = *size << 4 | u64::from(digit);
                        *has_digit = true;
                    }
                    // Behind the digits a blank, an extension and the line's end may stand.
                    (b' ' | b'\t' | b';' | b'\r', _) if *has_digit => *has_ended = true,
                    (byte, _) if *has_ended && byte != b'\n' => {}
                    _ => self.part = Part::Other,
                }
            }
            Part::ChunkEnd => match byte {
                b'\r' => {}
                b'\n' => self.part = CHUNK_SIZE,
                _ => self.part = Part::Other,
            },
            Part::Trailers => {
                self.trailers += 1;
                self.has_long_trailers |= self.trailers > HEAD_LIMIT;
                if self.ends_line(byte) {
                    self.part = Part::End;
                }
            }
            Part::Chunk(_) | Part::End | Part::Other => {}
        }
    }

    /// Whether this byte ends an empty line.
    fn ends_line(&mut self, byte: u8) -> bool {
        if byte != b'\n' {
            self.length += 1;
            self.last = byte;
            return false;
        }
        let is_empty = self.length == 0 || self.length == 1 && self.last == b'\r';
        self.length = 0;
        self.lines += 1;
        if self.lines > LINE_LIMIT && !is_empty {
            match self.part {
                Part::Head => self.has_long_head = true,
                _ => self.has_long_trailers = true,
            }
        }
        is_empty
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn application_data_is_found_however_the_bytes_are_cut() {
        let hello = [&[22, 3, 1, 0, 3][..], &[23, 23, 23]].concat();
        let change = [20, 3, 3, 0, 1, 1];
        let data = [23, 3, 3, 0, 2, 9, 9];
        let all = [&hello[..], &change, &data].concat();
        for size in 1..=all.len() {
            let mut records = Records::default();
            let mut end = 0;
            let mut first = None;
            for piece in all.chunks(size) {
                end += piece.len();
                if records.pass(piece).is_some() && first.is_none() {
                    first = Some(end);
                }
            }
            let start = hello.len() + change.len() + 5;
            let end = first.expect("the data is found");
            assert!(
                end > start && end <= (start + size).min(all.len()),
                "{size}"
            );
        }
    }

    #[test]
    fn a_second_server_hello_is_not_taken_for_the_end_of_a_handshake_of_tls_1_2() {
        for (length, is_tls12) in [
            (32, true),
            (40, true),
            (96, true),
            (122, false),
            (155, false),
        ] {
            let mut records = Records::default();
            records.pass(&[22, 3, 3, 0, 1, 2, 20, 3, 3, 0, 1, 1]);
            records.pass(&[&[22, 3, 3, 0, length][..], &vec![9; length.into()]].concat());
            records.pass(&[&[23, 3, 3, 0, 19][..], &[9; 19]].concat());
            assert_eq!(records.possible_end().is_none(), is_tls12, "{length}");
        }
    }

    #[test]
    fn what_a_record_holds_besides_data_is_not_counted() {
        let tls12 = [20, 3, 3, 0, 1, 1, 22, 3, 3, 0, 1, 0];
        for (handshake, overhead) in [(&[][..], 17), (&tls12[..], 16)] {
            let data = [&[23, 3, 3, 0, 117][..], &[9; 117]].concat();
            let all = [handshake, &data, &data, &[23, 3, 3, 0, 9], &[9; 9]].concat();
            for size in 1..=all.len() {
                let mut records = Records::default();
                let counted = all.chunks(size).filter_map(|piece| records.pass(piece));
                assert_eq!(counted.sum::<usize>(), 2 * (117 - overhead), "{size}");
            }
        }
    }

    #[test]
    fn a_record_that_may_be_close_notify_is_known_by_its_type_and_length() {
        for (kind, length, possible) in [
            (21, 2, false), // in the open: a refusal in the handshake
            (21, 18, true),
            (21, 26, true),
            (22, 19, false),
            (23, 18, false),
            (23, 19, true),
            (23, 20, false),
        ] {
            let mut records = Records::default();
            let bytes = [&[22, 3, 3, 0, 1, 0, kind, 3, 3, 0, length][..], &[9; 32]].concat();
            let end = 6 + 5 + usize::from(length);
            for (i, byte) in bytes[..end].iter().enumerate() {
                records.pass(&[*byte]);
                let expected = (possible && i + 1 == end).then_some(5 + usize::from(length));
                assert_eq!(records.possible_end(), expected, "{kind} {length} {i}");
            }
        }
    }

    #[test]
    fn the_end_of_a_head_is_an_empty_line_behind_the_first() {
        for (text, end) in [
            ("HTTP/1.1 200 OK\r\n\r\n", Some(19)),
            ("HTTP/1.1 200 OK\na: b\n\nrest", Some(22)),
            ("HTTP/1.1 200 OK\r\na: b\r\n\r", None),
            ("\r\n\r\n", Some(4)),
            ("a\r\r\n\r\n", Some(6)),
            ("a\n\rb\n", None),
        ] {
            let mut answer = Answer::default();
            let found = text.bytes().position(|byte| {
                answer.pass(&[byte]);
                answer.has_head_ended()
            });
            assert_eq!(found.map(|i| i + 1), end, "{text:?}");
        }
    }

    #[test]
    fn the_last_chunk_ends_where_rfc_9112_says() {
        for (text, has_ended) in [
            ("0\r\n\r\n", true),
            ("0\n\n", true),
            ("000;x=\"y\"\r\n\r\n", true),
            ("0\r\nX-A: b\r\n\r\n", true),
            ("5\r\nhello\r\n0\r\n\r\n", true),
            ("5 ; x\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n more", true),
            ("", false),
            ("0", false),
            ("0\r\n", false),
            ("0\r\n\r", false),
            ("0\r\nX-A: b\r\n", false),
            ("\r\n\r\n", false),
            ("5\r\nhello\r\n\r\n0\r\n\r\n", false),
            ("5\r\nhello0\r\n\r\n", false),
            ("5\r\nhel\r\n0\r\n\r\n", false),
            ("+0\r\n\r\n", false),
            ("0x0\r\n\r\n", false),
            (" 0\r\n\r\n", false),
            ("10000000000000000\r\nhello\r\n0\r\n\r\n", false),
            ("FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n", false),
        ] {
            let all = format!("HTTP/1.1 200 OK\r\n\r\n{text}");
            for size in 1..=all.len() {
                let mut answer = Answer::default();
                for piece in all.as_bytes().chunks(size) {
                    answer.pass(piece);
                }
                assert_eq!(answer.has_last_chunk_ended(), has_ended, "{text:?}");
            }
        }
    }
}
