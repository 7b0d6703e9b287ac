//! Calls through real servers, which the script in this folder starts. Each scene is a row of a Markdown
//! table: its name, its outcome, and what nginx logged.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use jas_session::{miniserde, Error, Response, Session};

const API: &str = "https://api.test";
const KEY: &str = "the-api-key";
/// The servers without TLS.
const AUTH_PORT: u16 = 8001;
const API_PORT: u16 = 8002;
const SILENT_PORT: u16 = 8003;
const NGINX_PORT: u16 = 8080;
/// Maximum wait for anything that a scene expects.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long after its end nginx may log a call.
const LATE: Duration = Duration::from_secs(5);
/// Without them, each session gets the certificate of the issuer.
const HAS_SYSTEM_ROOTS: bool = cfg!(feature = "system-roots");

/// The content of the API's large responses.
const LARGE: usize = 3 * 1024 * 1024;
const XML: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<ShipmentQuery>\r\n\
    \t<Consignee>M\u{fc}ller &amp; S\u{f6}hne &lt;K\u{f6}ln&gt; &#228;&#xDF;</Consignee>\r\n\
    \t<Note><![CDATA[a < b && c > \"d\" \u{20ac}]]></Note>\n<Empty/> \r\n</ShipmentQuery>\r\n";

#[derive(Clone, miniserde::Serialize)]
struct Client {
    #[serde(rename = "client_id")]
    id: String,
    #[serde(rename = "client_secret")]
    secret: String,
    /// Lifetime of its tokens, in seconds.
    lifetime: u32,
    has_grant: bool,
}

impl Client {
    fn new(id: impl Into<String>, secret: impl Into<String>) -> Client {
        Client { id: id.into(), secret: secret.into(), lifetime: 600, has_grant: true }
    }

    /// Makes a session.
    fn session(&self) -> Session {
        session(API, &self.id, &self.secret)
    }
}

fn session(url: &str, id: &str, secret: &str) -> Session {
    let session = without_key(url, id, secret);
    session.api_key(KEY).unwrap().timeout(PATIENCE)
}

fn without_key(url: &str, id: &str, secret: &str) -> Session {
    let session = Session::new(url, id, secret).unwrap();
    #[cfg(all(feature = "tls", not(feature = "system-roots")))]
    let session = {
        let root = fs::read("root.pem").unwrap();
        session.root_certificates(&root).unwrap()
    };
    session
}

/// A session with a token that the server has not issued.
fn with_token(url: &str) -> Session {
    let session = session(url, "id", "secret");
    session.resume("token", Duration::from_secs(600)).unwrap()
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [url] = &arguments[..] {
        let result = with_token(url).get("/");
        println!("{}", outcome(result.map(|_| "ok".to_owned())));
        return ExitCode::SUCCESS;
    }
    let mut suite = Suite::start();
    suite.credentials();
    suite.tokens();
    suite.restarts();
    suite.tls();
    suite.content();
    suite.refusals();
    suite.connections();
    if suite.faults == 0 {
        return ExitCode::SUCCESS;
    }
    eprintln!("{} outcomes were unexpected", suite.faults);
    ExitCode::FAILURE
}

struct Suite {
    job: Client,
    brief: Client,
    briefest: Client,
    without_grant: Client,
    /// Clients with every character in id and secret.
    odd: Vec<Client>,
    auth: Server,
    _api: Server,
    faults: u32,
    access: Log,
    errors: Log,
    /// The number of requests that ended a scene.
    marks: u32,
    /// The access log.
    lines: Vec<Line>,
}

impl Suite {
    fn start() -> Suite {
        let job = Client::new("job", "the secret of the job");
        let lasting = |id: &str, lifetime| Client { lifetime, ..Client::new(id, "secret") };
        let (brief, briefest) = (lasting("brief", 4), lasting("briefest", 2));
        let without_grant = Client { has_grant: false, ..Client::new("without grant", "secret") };
        let odd = odd_clients();
        let all = [&job, &brief, &briefest, &without_grant];
        let all: Vec<_> = all.into_iter().chain(&odd).cloned().collect();
        fs::write("clients.json", miniserde::json::to_string(&all)).unwrap();
        Suite {
            job,
            brief,
            briefest,
            without_grant,
            odd,
            auth: Server::start("auth", AUTH_PORT),
            _api: Server::start("api", API_PORT),
            faults: 0,
            access: Log::open("access.log"),
            errors: Log::open("error.log"),
            marks: 0,
            lines: Vec::new(),
        }
    }

    /// Runs a scene, and prints its outcome and what nginx logged. The outcome has to begin with
    /// `expected`. `seen` lists what nginx has to log, separated by commas, each with a count or its
    /// bounds after `×` unless it is 1. A connection is counted at its first request.
    fn scene(
        &mut self, name: &str, expected: &str, seen: &str,
        run: impl FnOnce(&mut Server) -> Result<String, Error>,
    ) {
        let outcome = outcome(run(&mut self.auth));
        let counts = self.seen(seen);
        let is_good = outcome.starts_with(expected) && is_as(&counts, seen);
        let counts: Vec<_> = counts
            .into_iter()
            .map(|(what, n)| if n == 1 { what } else { format!("{what} ×{n}") })
            .collect();
        let counts = counts.join(", ");
        let mark = if is_good { "" } else { "**fault:** " };
        println!("| {name} | {mark}{outcome} | {counts} |");
        if !is_good {
            self.faults += 1;
            eprintln!("{name}: {outcome}: {counts}\n  expected {expected}: {seen}");
        }
    }

    /// Counts what nginx has logged since the last scene. nginx has one worker, so a request of this
    /// program marks the end of the log. nginx may log later what it notices when the client closes, so
    /// this waits for all that is `expected`.
    fn seen(&mut self, expected: &str) -> BTreeMap<String, usize> {
        self.marks += 1;
        let mark = format!("/{}", self.marks);
        plain(NGINX_PORT, &format!("GET {mark} HTTP/1.0\r\n\r\n"));
        let start = Instant::now();
        let mut counts = BTreeMap::new();
        let mut is_marked = false;
        loop {
            for line in self.access.new_lines() {
                let line = Line::new(&line);
                let what = match &*line.uri {
                    uri if uri == mark => {
                        is_marked = true;
                        continue;
                    }
                    "/oauth2/token" => "token",
                    _ => &line.method,
                };
                *counts.entry(format!("{what} {}", line.status)).or_default() += 1;
                if line.is_first {
                    *counts.entry("connection".to_owned()).or_default() += 1;
                }
                self.lines.push(line);
            }
            for line in self.errors.new_lines() {
                if line.contains("while SSL handshaking") {
                    *counts.entry("no handshake".to_owned()).or_default() += 1;
                }
            }
            if is_marked && is_as(&counts, expected) || start.elapsed() > LATE {
                return counts;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn credentials(&mut self) {
        self.odd_credentials();
        self.refused_credentials();
    }

    fn odd_credentials(&mut self) {
        let odd = self.odd.clone();
        let all = format!("ok, {} clients", odd.len());
        self.scene(
            "each printable ASCII character in id and secret, and texts that look encoded",
            &all,
            &format!("token 200 ×{0}, GET 200 ×{0}, connection ×{0}", odd.len()),
            |_| {
                for client in &odd {
                    let named = client.session().get("/whoami")?.text()?;
                    assert_eq!(named, client.id);
                }
                Ok(all.clone())
            },
        );
        self.scene(
            "a secret with a character that is not ASCII",
            "InvalidInput: the client secret",
            "",
            |_| Session::new(API, "job", "geheimni\u{df}").map(|_| String::new()),
        );
    }

    fn refused_credentials(&mut self) {
        let check = "check the client id and the client secret, and that the application is \
                     subscribed to an API; the response says: ";
        let denied = &*format!("status 401: {check}invalid_client: ");
        for (name, id, secret) in [
            ("a wrong secret", "job", "another secret"),
            ("a space where the secret has a plus", "plus", "a b"),
            ("an unknown client", "nobody", "secret"),
        ] {
            let expected = format!("Denied: {denied}client authentication failed");
            self.scene(name, &expected, "token 401, connection", |_| {
                let session = session(API, id, secret);
                // The second call is refused without a request.
                assert!(session.get("/whoami").is_err());
                session.get("/whoami")?.text()
            });
        }
        let client = self.without_grant.clone();
        let expected = format!("Denied: status 400: {check}invalid_request: requested grant type");
        self.scene("a client without the grant", &expected, "token 400, connection", |_| {
            client.session().get("/whoami")?.text()
        });
        let client = self.job.clone();
        self.scene(
            "the token endpoint is elsewhere",
            "Denied: status 404: no token endpoint is there: check the base URL, or give \
             the endpoint's own URL with Session::token_endpoint, or JAS_TOKEN_ENDPOINT",
            "POST 404, connection",
            |_| {
                let endpoint = format!("{API}/oauth/token");
                let session = client.session().token_endpoint(&endpoint)?;
                session.get("/whoami")?.text()
            },
        );
        self.scene(
            "the API key is missing",
            "Status: status 403: no API key (x-api-key) was sent",
            "token 200, GET 403, connection",
            |_| {
                let session = without_key(API, &client.id, &client.secret);
                session.get("/whoami")?.text()
            },
        );
    }

    fn tokens(&mut self) {
        let session = self.brief.session();
        self.scene(
            "tokens of 4 s, calls for 9 s",
            "ok, 90 calls",
            "token 200 ×4-9, GET 200 ×90, connection ×4-9",
            |_| calls_for(&session, 90),
        );
        let session = self.briefest.session().renew_before(Duration::ZERO);
        self.scene(
            "tokens of 2 s without early renewal, calls for 5 s",
            "ok, 50 calls",
            "token 200 ×3-9, GET 200 ×50, GET 401 ×0-9, connection ×3-9",
            |_| calls_for(&session, 50),
        );

        let session = self.job.session();
        let client = self.job.clone();
        let mut booked = 0;
        self.scene(
            "the token in use is revoked before a POST",
            "ok: booking ",
            "token 200 ×2, POST 201 ×2, POST 401, connection ×5",
            |_| {
                let first = booking(&session)?;
                let token = session.access_token()?;
                let response = revoke(&client, &token);
                assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
                let second = booking(&session)?;
                assert_eq!(second, first + 1);
                assert_ne!(session.access_token()?, token);
                booked = second;
                Ok("ok: booking once".to_owned())
            },
        );
        self.scene(
            "a resumed token that was revoked",
            "ok: job",
            "token 200, GET 401, GET 200, connection ×2",
            |_| {
                let (token, left) = session.held_token().unwrap();
                revoke(&client, &token);
                let next = client.session().resume(&token, left)?;
                Ok(format!("ok: {}", next.get("/whoami")?.text()?))
            },
        );
    }

    fn restarts(&mut self) {
        let session = self.job.session().retries(6);
        self.scene(
            "the authorization server restarts while 4 threads make calls",
            "ok, 120 calls",
            "token 200 ×2, GET 200 ×120, GET 401 ×1-4, GET 503 ×0-24, connection ×1-32",
            |auth| {
                let (done, calls) = mpsc::channel();
                thread::scope(|scope| {
                    for _ in 0..4 {
                        let (done, session) = (done.clone(), &session);
                        scope.spawn(move || {
                            for _ in 0..30 {
                                let response = session.get("/whoami").and_then(Response::text);
                                done.send(response).unwrap();
                            }
                        });
                    }
                    drop(done);
                    for response in calls.iter().take(40) {
                        response?;
                    }
                    auth.restart_after(Duration::ZERO);
                    calls.iter().try_for_each(|response| response.map(drop))
                })?;
                Ok("ok, 120 calls".to_owned())
            },
        );
        self.outages(&session);
    }

    fn outages(&mut self, session: &Session) {
        let down = Duration::from_millis(700);
        self.scene(
            "... is down during a token request",
            "ok: job",
            "token 200, token 502 ×1-6, GET 200, connection ×2-7",
            |auth| {
                session.invalidate(&session.access_token()?);
                auth.stop();
                thread::scope(|scope| {
                    scope.spawn(|| auth.restart_after(down));
                    Ok(format!("ok: {}", session.get("/whoami")?.text()?))
                })
            },
        );
        self.scene(
            "... is down during a whole call that needs a token",
            "Status: status 502: the server or its backend is down or overloaded: try again \
             later",
            "token 502 ×2, connection ×2",
            |auth| {
                session.invalidate(&session.access_token()?);
                auth.stop();
                let result = session.clone().retries(1).get("/whoami");
                auth.restart_after(Duration::ZERO);
                result?.text()
            },
        );
        self.scene(
            "... is down while the API checks the token of a POST",
            "Status, may have executed: status 503: the server or its backend is down or \
             overloaded: try again later; the response says: tokens can't be checked now",
            "token 200, POST 503, connection ×2",
            |auth| {
                session.access_token()?;
                auth.stop();
                let result = booking(session);
                auth.restart_after(Duration::ZERO);
                result.map(|n| format!("ok: booking {n}"))
            },
        );
    }

    fn tls(&mut self) {
        let Client { id, secret, .. } = &self.job.clone();
        self.scene(
            "nginx speaks TLS 1.2 only",
            "ok: job",
            "token 200, GET 200 ×2, connection",
            |_| {
                let session = session("https://tls12.test", id, secret);
                session.get("/whoami")?;
                Ok(format!("ok: {}", session.get("/whoami")?.text()?))
            },
        );

        self.scene(
            "... 1.1 only",
            "Exchange: the server and this device don't agree on TLS: this crate speaks 1.2 and 1.3, ",
            "no handshake",
            |_| with_token("https://old.test").get("/")?.text(),
        );
        let issuer = if HAS_SYSTEM_ROOTS {
            "Exchange: the issuer of the server's certificate is not among this system's roots; \
             Session::root_certificates trusts more ("
        } else {
            "Exchange: the issuer of the server's certificate is not among the compiled-in roots; \
             Session::root_certificates trusts more, and the feature system-roots trusts this \
             system's roots instead ("
        };
        for (name, url, expected) in [
            (
                "a certificate that has expired",
                "https://expired.test",
                "Exchange: the server's certificate has expired, or this device's clock is wrong: \
                 it says ",
            ),
            (
                "... that is not valid yet",
                "https://early.test",
                "Exchange: the server's certificate is not valid yet, or this device's clock is \
                 wrong: it says ",
            ),
            (
                "... for another host",
                "https://another.test",
                "Exchange: the server's certificate is for another host name: check the host in \
                 the URL",
            ),
            ("... of an unknown issuer", "https://unknown.test", issuer),
            ("... without the certificate of its issuer", "https://incomplete.test", issuer),
        ] {
            self.scene(name, expected, "no handshake", |_| with_token(url).get("/")?.text());
        }
        self.scene("... and a token is needed first", issuer, "no handshake", |_| {
            session("https://unknown.test", id, secret).get("/")?.text()
        });

        self.system_roots(issuer);
    }

    fn system_roots(&mut self, issuer: &str) {
        // A process reads the system's roots once.
        let child = |url: &str, variables: &[(&str, &str)]| {
            let mut child = Command::new(env::current_exe().unwrap());
            child.arg(url);
            for (name, value) in variables {
                child.env(name, value);
            }
            let output = child.output().unwrap();
            assert!(output.status.success());
            Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
        };
        let (good, refused) = (("ok", "GET 200, connection"), (issuer, "no handshake"));
        let (its_own, other) = if HAS_SYSTEM_ROOTS { (good, refused) } else { (refused, good) };
        self.scene(
            "`SSL_CERT_FILE` names another root: the server of that root",
            its_own.0,
            its_own.1,
            |_| child("https://unknown.test", &[("SSL_CERT_FILE", "stranger.pem")]),
        );
        self.scene("... the other server", other.0, other.1, |_| {
            child(API, &[("SSL_CERT_FILE", "stranger.pem")])
        });
        self.scene("`SSL_CERT_DIR` alone has the root", good.0, good.1, |_| {
            child(API, &[("SSL_CERT_FILE", ""), ("SSL_CERT_DIR", "roots")])
        });
    }

    fn content(&mut self) {
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

    fn refusals(&mut self) {
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

    /// Checks common to all requests.
    fn connections(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        let count = |what: &dyn Fn(&Line) -> bool| lines.iter().filter(|line| what(line)).count();
        let (all, connections) = (lines.len(), count(&|line| line.is_first));
        let resumed = count(&|line| line.is_first && line.is_resumed) * 100 / connections;
        // Sessions with added roots share nothing with others.
        let least = if HAS_SYSTEM_ROOTS { 90 } else { 1 };
        self.scene("TLS sessions are resumed", "ok, ", "", |_| {
            let is_good = resumed >= least;
            let mark = if is_good { "ok" } else { "too few" };
            Ok(format!("{mark}, by {resumed} % of the connections"))
        });
        let of_1_2 = count(&|line| line.tls == "TLSv1.2");
        let of_1_3 = count(&|line| line.tls == "TLSv1.3");
        let of_http = count(&|line| line.protocol == "HTTP/1.1");
        let is_create = |line: &&Line| {
            line.method == "POST" && ["/bookings", "/down", "/small"].contains(&&*line.uri)
        };
        let creates = lines.iter().filter(is_create);
        self.scene("each request is HTTP/1.1; each `post` has a new connection", "ok", "", |_| {
            assert_eq!((of_http, of_1_2, of_1_2 + of_1_3), (all, 3, all));
            assert!(creates.clone().all(|line| line.is_first));
            Ok(format!(
                "ok, {} calls of `post`; {all} requests on {connections} connections; TLS \
                     1.3, or 1.2 where the server speaks only that",
                creates.count()
            ))
        });
    }
}

/// Each character alone, all characters at once, and texts that look encoded.
fn odd_clients() -> Vec<Client> {
    let all: String = (' '..='~').collect();
    let all = all.trim_start();
    let backwards: String = all.chars().rev().collect();
    let long = format!("{all} ").repeat(20) + all;
    let pairs = [
        (all, &*backwards),
        ("long", &long),
        ("plus", "a+b"),
        ("encoded", "a%20b%2Bc+d%25"),
        ("100%", "%zz%"),
        ("a&client_id=b", "c&client_secret=d"),
        ("a;b", "c;d=e"),
        ("\"quoted\"", "\\u0041&amp;"),
        ("..", "//?#"),
    ];
    let pairs = pairs.map(|(id, secret)| Client::new(id, secret));
    let each = (' '..='~').map(|c| Client::new(format!("i{c}d"), format!("s{c}{c}t")));
    each.chain(pairs).collect()
}

/// Makes this many calls, one each tenth of a second.
fn calls_for(session: &Session, calls: u32) -> Result<String, Error> {
    let start = Instant::now();
    for i in 0..calls {
        let at = start + Duration::from_millis(100) * i;
        thread::sleep(at.saturating_duration_since(Instant::now()));
        session.get("/whoami")?.text()?;
    }
    Ok(format!("ok, {calls} calls"))
}

/// Books, and returns the number of all bookings so far.
fn booking(session: &Session) -> Result<u32, Error> {
    let booked = session.post("/bookings", "text/plain", "a booking")?.text()?;
    Ok(booked.strip_prefix("booking ").unwrap().parse().unwrap())
}

/// Revokes a token ([RFC 7009](https://www.rfc-editor.org/rfc/rfc7009)).
fn revoke(client: &Client, token: &str) -> String {
    let content = format!(
        "token={token}&client_id={}&client_secret={}",
        client.id,
        client.secret.replace(' ', "+")
    );
    let head = format!(
        "POST /token/revocation HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\nContent-Type: \
         application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n",
        content.len()
    );
    plain(AUTH_PORT, &(head + &content))
}

/// Sends a request without TLS and without this crate.
fn plain(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

/// Kind, message without method and URL, and cause.
fn outcome(result: Result<String, Error>) -> String {
    let error = match result {
        Ok(text) => return text,
        Err(error) => error,
    };
    let message = error.to_string();
    let (label, why) = message.split_once(": ").unwrap_or(("", &message));
    let message = if label.contains("https://") { why } else { &message };
    let executed = if error.may_have_executed() { ", may have executed" } else { "" };
    let cause = error.source().map(|cause| format!(" ({cause})"));
    let cause = cause.unwrap_or_default();
    format!("{:?}{executed}: {message}{cause}", error.kind())
}

/// Whether `counts` match `seen`.
fn is_as(counts: &BTreeMap<String, usize>, seen: &str) -> bool {
    let mut left = counts.clone();
    let items = seen.split(", ").filter(|item| !item.is_empty());
    let mut are_good = items.map(|item| {
        let (what, range) = item.split_once(" ×").unwrap_or((item, "1"));
        let (least, most) = range.split_once('-').unwrap_or((range, range));
        let count = left.remove(what).unwrap_or(0);
        (least.parse().unwrap()..=most.parse().unwrap()).contains(&count)
    });
    are_good.all(|is_good| is_good) && left.is_empty()
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

/// A server of servers.mjs. Dropping this stops it.
struct Server {
    name: &'static str,
    port: u16,
    process: Child,
}

impl Server {
    fn start(name: &'static str, port: u16) -> Server {
        let process = Server::spawn(name, port);
        Server { name, port, process }
    }

    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Stops the server, waits, and starts it again.
    fn restart_after(&mut self, pause: Duration) {
        self.stop();
        thread::sleep(pause);
        self.process = Server::spawn(self.name, self.port);
    }

    fn spawn(name: &str, port: u16) -> Child {
        let mut log = fs::File::options();
        let log = log.append(true).create(true);
        let log = log.open(format!("{name}.log")).unwrap();
        let process = Command::new("node")
            .args(["servers.mjs", name])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < PATIENCE, "{name} has not started");
            thread::sleep(Duration::from_millis(10));
        }
        process
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A file to which nginx appends.
struct Log {
    file: fs::File,
    /// The beginning of an incomplete line.
    part: String,
}

impl Log {
    /// Skips what the file already holds.
    fn open(path: &str) -> Log {
        let mut file = fs::File::open(path).unwrap();
        io::Seek::seek(&mut file, io::SeekFrom::End(0)).unwrap();
        let part = String::new();
        Log { file, part }
    }

    fn new_lines(&mut self) -> Vec<String> {
        self.file.read_to_string(&mut self.part).unwrap();
        let end = self.part.rfind('\n').map_or(0, |i| i + 1);
        let rest = self.part.split_off(end);
        let lines = std::mem::replace(&mut self.part, rest);
        lines.lines().map(str::to_owned).collect()
    }
}

/// A request in nginx's log, in the format `lines`.
struct Line {
    method: String,
    uri: String,
    status: String,
    protocol: String,
    tls: String,
    is_resumed: bool,
    /// Whether it is the first of its connection.
    is_first: bool,
}

impl Line {
    fn new(line: &str) -> Line {
        let fields: Vec<_> = line.split(' ').collect();
        let [_, method, uri, status, protocol, tls, resumed, requests] = fields[..] else {
            panic!("{line}");
        };
        Line {
            method: method.to_owned(),
            uri: uri.to_owned(),
            status: status.to_owned(),
            protocol: protocol.to_owned(),
            tls: tls.to_owned(),
            is_resumed: resumed == "r",
            is_first: requests == "1",
        }
    }
}
