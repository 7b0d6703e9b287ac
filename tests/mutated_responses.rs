//! A mutated or random response is an error, or is read as a second, simple reader reads it.

use std::thread;
use std::time::Instant;

use jas_session::{miniserde::json, Error, ErrorKind, Response, Session};

#[path = "fuzz/targets/reader.rs"]
mod reader;
#[path = "support/wire/mod.rs"]
mod wire;
use reader::{Content, Reference};
use wire::{request, respond, response, Server, PATIENCE};

const TOKEN: &str = r#"{"access_token":"t0ken","token_type":"Bearer","expires_in":600}"#;
const SECRET: &str = "s3cret";

/// Responds to a request for `/INDEX` with the response of this index.
fn server(responses: Vec<Vec<u8>>) -> Server {
    Server::start(move |stream| {
        let received = request(stream);
        let text = String::from_utf8_lossy(&received);
        let index = text.split([' ', '/']).nth(2).unwrap().parse::<usize>().unwrap();
        respond(stream, &responses[index]);
        received
    })
}

/// A session that holds a token, or requests it at `/INDEX`.
fn session(server: &Server, token: Option<usize>) -> Session {
    let url = server.url();
    let session = Session::new(&url, "id", SECRET).unwrap().retries(0).timeout(PATIENCE);
    match token {
        None => session.resume("t0ken", PATIENCE * 30).unwrap(),
        Some(index) => session.token_endpoint(&format!("{url}/{index}")).unwrap(),
    }
}

/// Makes a call for each response, from a few threads.
fn call_all(responses: &[Vec<u8>], check: impl Fn(&[u8], Result<Vec<u8>, Error>) + Sync) {
    let server = server(responses.to_vec());
    let session = session(&server, None);
    thread::scope(|scope| {
        for first in 0..4 {
            let (session, check) = (&session, &check);
            scope.spawn(move || {
                for index in (first..responses.len()).step_by(4) {
                    let result = session.post(&format!("/{index}"), "text/plain", "create");
                    check(&responses[index], result.and_then(Response::bytes));
                }
            });
        }
    });
    assert_eq!(server.ended().len(), responses.len());
}

/// The call failed, or gave the content that the response has.
fn assert_error_or_meant(response: &[u8], result: Result<Vec<u8>, Error>) {
    match (result, meaning(response)) {
        (Ok(content), meant) => assert_eq!(Some(content), meant, "{}", response.escape_ascii()),
        (Err(error), _) => assert_shows_no_secret(&error),
    }
}

fn assert_shows_no_secret(error: &Error) {
    let said = format!("{error} {error:?}");
    assert!(!said.contains("t0ken") && !said.contains(SECRET), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

/// The content of a valid 2xx response, by the second reader. The connection ends after it.
fn meaning(response: &[u8]) -> Option<Vec<u8>> {
    match reader::read(response, true) {
        Reference { status: Some(200..=299), content: Content::Whole(content) } => Some(content),
        _ => None,
    }
}

/// Good responses, one for each way in which content ends.
fn good() -> [Vec<u8>; 3] {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nall of\r\n\
                   c; x=\"y\"\r\n the content\r\n0\r\nX-B: c\r\n\r\n";
    [
        response("200 OK", "Content-Type: text/plain\r\n", "all of the content"),
        chunked.into(),
        b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\nall of the content".to_vec(),
    ]
}

/// This response with one byte flipped, doubled, removed or inserted, at every place.
fn mutants(response: &[u8]) -> Vec<Vec<u8>> {
    let mut mutants = Vec::new();
    let mut edit = |range: std::ops::Range<usize>, bytes: &[u8]| {
        let mut mutant = response.to_vec();
        mutant.splice(range, bytes.iter().copied());
        mutants.push(mutant);
    };
    for i in 0..response.len() {
        for flip in [1, 0x10, 0x20, 0x80, 0xff] {
            edit(i..i + 1, &[response[i] ^ flip]);
        }
        edit(i..i, &[response[i]]);
        edit(i..i + 1, &[]);
        for inserted in [b'\n', b'\r', b' ', b':', b';', b'0', b'+', 0] {
            edit(i..i, &[inserted]);
        }
        // The rest is missing, or the beginning is there twice.
        edit(i..response.len(), &[]);
        edit(i..i, &response[..i]);
    }
    mutants
}

#[test]
fn mutated_response_is_an_error_or_read_as_sent() {
    call_all(&good(), |_, result| assert_eq!(result.unwrap(), b"all of the content"));
    for good in good() {
        assert_eq!(meaning(&good).unwrap(), b"all of the content");
        call_all(&mutants(&good), assert_error_or_meant);
    }
}

#[test]
fn mutated_token_response_is_an_error_or_a_token() {
    let mutants = mutants(&response("200 OK", "", TOKEN));
    let server = server(mutants.clone());
    for (index, response) in mutants.iter().enumerate().step_by(3) {
        let said = response.escape_ascii();
        match session(&server, Some(index)).access_token() {
            Ok(token) => {
                let meant = meaning(response).unwrap();
                assert!(String::from_utf8_lossy(&meant).contains(&token), "{said}");
                assert!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
            }
            Err(error) => {
                assert_shows_no_secret(&error);
                assert!(!error.may_have_executed(), "{said}");
            }
        }
    }
}

/// Bytes that look random, and are the same each time.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    });
    next.take(length).collect()
}

#[test]
fn random_response_is_an_error_or_read_as_sent() {
    let begins = [
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\n\r\n",
    ];
    let responses: Vec<_> = (0..600_u32)
        .map(|i| {
            let begin = begins[i as usize % begins.len()].as_bytes();
            [begin, &noise(u64::from(i), i as usize * 3)].concat()
        })
        .collect();
    call_all(&responses, assert_error_or_meant);
}

#[test]
fn token_that_is_hard_to_compare_takes_no_time() {
    let text = format!(
        r#"{{"access_token":"{}","token_type":"{}"}}"#,
        r"\\".repeat(2000),
        r"\\".repeat(8000)
    );
    let server = server(vec![response("200 OK", "", &text)]);
    let start = Instant::now();
    let error = session(&server, Some(0)).access_token().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidToken);
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
}

#[test]
fn json_of_any_size_is_an_error_or_read() {
    let jsons = [
        ("[".repeat(1 << 20), false),
        (format!("[{}1]", "1,".repeat(400_000)), true),
        (format!("\"{}\"", "\\u0061".repeat(100_000)), true),
        (format!("{}1", " ".repeat(1_000_000)), true),
        ("9".repeat(100_000), false),
        ("\"\\ud800\"".to_owned(), false),
    ];
    let of = |status: &str| jsons.each_ref().map(|(json, _)| response(status, "", json));
    let (good, refusing) = (server(of("200 OK").into()), server(of("400 Bad Request").into()));
    for (index, (text, is_read)) in jsons.iter().enumerate() {
        let response = session(&good, None).get(&format!("/{index}")).unwrap();
        let result = response.json::<json::Value>();
        assert_eq!(result.is_ok(), *is_read, "{index}: {text:.50}");
        if let Err(error) = result {
            assert_eq!(error.kind(), ErrorKind::Content);
        }
        // As a token response, none of them has a token.
        let error = session(&good, Some(index)).access_token().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidToken);
        // As a refusal, none of them makes the message long.
        let error = session(&refusing, Some(index)).access_token().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.to_string().len() < 1000);
    }
}
