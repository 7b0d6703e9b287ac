//! An input of the target `responses`, parsed.

use std::time::Duration;

use crate::reader::{read, Content};
use crate::server::NEXT;
use crate::{LONG, SHORT};

#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Call {
    Get,
    Post,
    PostIdempotent,
    PostJson,
    AccessToken,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Reading {
    Bytes,
    Text,
    Json,
    Pieces(usize),
    /// The response is dropped unread.
    None,
}

/// What the server does at the split of a response.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Split {
    None,
    /// It sends the rest apart.
    Apart,
    /// It pauses first.
    Pause,
    Close,
    Silence,
    /// It sends what follows the split over and over, to about 30 KiB.
    Repeat,
    /// It sends each of the next bytes apart.
    Drip,
}

/// How the server ends a connection.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum End {
    /// In order, when all is sent.
    Close,
    /// Not before the client does.
    Stay,
    /// It has not read the request, so the close becomes a reset.
    Reset,
}

/// A parsed input.
#[derive(Clone, Debug)]
pub(crate) struct Play {
    pub(crate) call: Call,
    pub(crate) reading: Reading,
    pub(crate) limit: Option<u64>,
    pub(crate) split: Split,
    /// The offset of the split, in 1/65536 of the API's response.
    pub(crate) place: u16,
    pub(crate) end: End,
    pub(crate) retries: u32,
    /// There is time for the pause of a quarter of a second before a retry.
    pub(crate) is_patient: bool,
    /// `None`: the session holds a token.
    pub(crate) token: Option<Vec<u8>>,
    pub(crate) api: Vec<u8>,
    /// `None`: a good response.
    pub(crate) next: Option<Vec<u8>>,
}

impl Play {
    /// Control bytes: call, reading, size of pieces or limit, split, its place (two), end,
    /// retries.
    pub(crate) fn of(data: &[u8]) -> Option<Play> {
        let (control, responses) = data.split_first_chunk::<8>()?;
        let (responses, next) = match split_at_line(responses, b"\n&&\n") {
            Some((responses, next)) => (responses, Some(next.to_vec())),
            None => (responses, None),
        };
        let (token, api) = match split_at_line(responses, b"\n%%\n") {
            Some((token, api)) => (Some(token.to_vec()), api),
            None => (None, responses),
        };
        let [call, reading, size, split, place, place_low, end, retries] = *control;
        let sum = data.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        Some(Play {
            call: match call % 8 {
                0..=2 => Call::Get,
                3 | 4 => Call::Post,
                5 => Call::PostIdempotent,
                6 => Call::PostJson,
                _ => Call::AccessToken,
            },
            reading: match reading % 8 {
                0..=2 => Reading::Bytes,
                3 => Reading::Text,
                4 => Reading::Json,
                5 | 6 => Reading::Pieces(1 + usize::from(size)),
                _ => Reading::None,
            },
            limit: (reading >= 128).then(|| u64::from(size)),
            split: match split % 16 {
                0..=6 => Split::None,
                7..=9 => Split::Apart,
                10 => Split::Pause,
                11 | 12 => Split::Close,
                13 => Split::Silence,
                14 => Split::Repeat,
                _ => Split::Drip,
            },
            place: u16::from_be_bytes([place, place_low]),
            end: match end % 16 {
                0..=12 => End::Close,
                13 | 14 => End::Stay,
                _ => End::Reset,
            },
            retries: u32::from(retries % 8 == 7),
            // Only a few inputs may, even if many derive from one.
            is_patient: retries == 255 && sum % 32 == 0,
            token,
            api: api.to_vec(),
            next,
        })
    }

    /// The offset at which the API's response is split.
    pub(crate) fn at(&self) -> usize {
        self.api.len() * usize::from(self.place) / 65536
    }

    /// What the server sends as the API's response.
    pub(crate) fn sent(&self) -> Vec<u8> {
        let (first, rest) = self.api.split_at(self.at());
        match self.split {
            Split::Close | Split::Silence => first.to_vec(),
            Split::Repeat if !rest.is_empty() => {
                let times = 1 + 30 * 1024 / rest.len();
                [first, &rest.repeat(times)].concat()
            }
            _ => self.api.clone(),
        }
    }

    /// What the server sends on a connection that was in use as the second call's response.
    pub(crate) fn next(&self) -> &[u8] {
        self.next.as_deref().unwrap_or(NEXT)
    }

    /// Whether the server closes after the API's response.
    pub(crate) fn closes(&self) -> bool {
        match self.split {
            Split::Close => true,
            Split::Silence => false,
            _ => self.end != End::Stay,
        }
    }

    pub(crate) fn timeout(&self) -> Duration {
        // Where the time is short, pauses before retries are left out, and the end of an
        // endless head is not waited for.
        let has_time = self.retries == 0 || self.is_patient;
        let sent = self.sent();
        let has_end = self.closes() || matches!(read(&sent, false).content, Content::Whole(_));
        if has_end && has_time && self.split != Split::Repeat {
            LONG
        } else {
            SHORT
        }
    }
}

pub(crate) fn split_at_line<'a>(text: &'a [u8], line: &[u8; 4]) -> Option<(&'a [u8], &'a [u8])> {
    let at = text.windows(line.len()).position(|four| four == line)?;
    Some((&text[..at], &text[at + line.len()..]))
}
