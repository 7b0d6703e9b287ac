//! Scenes of content and of refusals.

use super::*;

impl Suite {
    pub(super) fn content(&mut self) {
        let session = self.job.session();
        self.echoes(&session);
        self.large_content(&session);
        self.compression(&session);
        self.truncated_content(&session);
    }

    fn echoes(&mut self, session: &Session) {
        let echo = |path: &str, media_type: &str, content: &[u8]| {
            let response = session.post_idempotent(path, media_type, content)?;
            assert_eq!(response.header("content-type"), Some(media_type));
            assert!(response.bytes()? == content, "the response differs");
            assert!(fs::read("received").unwrap() == content, "the API saw another content");
            Ok(format!("ok, {} bytes, the same in the API and here", content.len()))
        };
        let same = "ok, ";
        self.scene(
            "an XML query: entities, umlauts, CDATA, CR LF",
            same,
            "token 200, POST 200, connection",
            |_| echo("/echo", "application/xml", XML.as_bytes()),
        );
        let bytes: Vec<u8> = (0..=255).cycle().take(200_000).collect();
        self.scene("every byte, 200 kB", same, "POST 200", |_| {
            echo("/echo", "application/octet-stream", &bytes)
        });
        self.scene("XML, and nginx compresses", same, "POST 200", |_| {
            echo("/gzip/echo", "application/xml", XML.as_bytes())
        });
    }

    fn large_content(&mut self, session: &Session) {
        let large = |path: &str| {
            let mut response = session.get(path)?;
            assert_eq!(response.header("content-encoding"), None);
            // Checks the order, in constant memory.
            let mut check = Pattern(0);
            io::copy(&mut response, &mut check)
                .map_err(|error| *error.into_inner().unwrap().downcast::<Error>().unwrap())?;
            assert_eq!(check.0, LARGE);
            Ok(format!("ok, {LARGE} bytes"))
        };
        let whole = format!("ok, {LARGE} bytes");
        for (name, path) in [
            ("3 MiB with a length through nginx's buffers", "/large"),
            ("... in chunks", "/chunked"),
            ("... in chunks, not buffered", "/unbuffered/chunked"),
            ("... and nginx compresses", "/gzip/large"),
        ] {
            self.scene(name, &whole, "GET 200", |_| large(path));
        }
    }

    fn compression(&mut self, session: &Session) {
        self.scene(
            "... and the client (curl) accepts that",
            "ok, gzip",
            "GET 200, connection",
            |_| {
                let token = format!("Authorization: Bearer {}", session.access_token()?);
                let key = format!("x-api-key: {KEY}");
                let output = Command::new("curl")
                    .args(["--silent", "--http1.1", "--cacert", "root.pem"])
                    .args(["--header", &token, "--header", &key])
                    .args(["--header", "Accept-Encoding: gzip", "--output", "/dev/null"])
                    .args(["--write-out", "%header{content-encoding}"])
                    .arg(format!("{API}/gzip/large"))
                    .output()
                    .unwrap();
                let coding = String::from_utf8(output.stdout).unwrap();
                Ok(format!("ok, {coding}"))
            },
        );
        self.scene(
            "the API compresses, although not asked to",
            "Exchange, may have executed: ",
            "GET 200",
            |_| session.get("/compressed")?.text(),
        );
    }

    fn truncated_content(&mut self, session: &Session) {
        // A call that fails closes its connection.
        for (name, path) in [
            ("the API closes within the content", "/truncated"),
            ("... within chunks", "/truncated-chunks"),
            ("... within chunks, not buffered", "/unbuffered/truncated-chunks"),
        ] {
            self.scene(
                name,
                "Exchange, may have executed: the connection ended before the content",
                "GET 200, connection",
                |_| {
                    let content = session.get(path)?.limit(LARGE as u64).bytes()?;
                    Ok(format!("{} bytes", content.len()))
                },
            );
        }
    }

    pub(super) fn refusals(&mut self) {
        let session = self.job.session();
        self.refused_gets(&session);
        self.refused_creates(&session);
        let long = "x".repeat(40_000);
        self.scene(
            "... 400: a header field of 40 kB",
            "Status: status 400: the server could not read the request: check its content and its \
             media type; the response says: 400 Bad Request Request Header Or Cookie Too Large",
            "GET 400, connection",
            |_| session.clone().header("x-long", &long)?.get("/whoami")?.text(),
        );
    }

    fn refused_gets(&mut self, session: &Session) {
        let silent = TcpListener::bind(("127.0.0.1", SILENT_PORT)).unwrap();
        for (name, path, expected, seen) in [
            (
                "a page of nginx: 404",
                "/nothing",
                "Status: status 404: not found: check the base URL, the path and any number in it; the \
                 response says: 404 Not Found nginx",
                "token 200, GET 404, connection",
            ),
            (
                "... 301",
                "/moved",
                "Status, may have executed: status 301; it redirects to https://elsewhere.test/, \
                 which is never followed",
                "GET 301",
            ),
            (
                "... 502: the API is down",
                "/down",
                "Status, may have executed: status 502: the server or its backend is down or \
                 overloaded: try again later; the response says: 502 Bad Gateway nginx",
                "GET 502 ×3, connection ×2",
            ),
            (
                "... 504: the API is silent",
                "/silent",
                "Status, may have executed: status 504: the server or its backend is down or \
                 overloaded: try again later; the response says: 504 Gateway Time-out nginx",
                "GET 504 ×3, connection ×3",
            ),
        ] {
            self.scene(name, expected, seen, |_| session.get(path)?.text());
        }
        drop(silent);
        self.scene(
            "... 429: three calls without a pause, one allowed each second",
            "ok, 3 calls",
            "GET 200 ×3, GET 429 ×1-8, connection",
            |_| {
                let session = session.clone().retries(4);
                for _ in 0..3 {
                    session.get("/limited")?.text()?;
                }
                Ok("ok, 3 calls".to_owned())
            },
        );
    }

    fn refused_creates(&mut self, session: &Session) {
        self.scene(
            "... 502 to a POST",
            "Status, may have executed: status 502",
            "POST 502, connection",
            |_| session.post("/down", "text/plain", "x")?.text(),
        );
        let content = vec![b'x'; 8 * 1024 * 1024];
        for (name, content) in [
            ("... 413: a POST of 2 kB where 1 kB is allowed", &content[..2048]),
            ("... 413: a POST of 8 MiB", &content),
        ] {
            self.scene(
                name,
                "Status: status 413: the content is too large: send less at a time; the response \
                 says: 413 Request Entity Too Large nginx",
                "POST 413, connection",
                |_| session.post("/small", "text/plain", content)?.text(),
            );
        }
    }
}

/// Checks the content of the API's large responses.
struct Pattern(usize);

impl io::Write for Pattern {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            assert_eq!(usize::from(*byte), self.0 % 251, "byte {}", self.0);
            self.0 += 1;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
