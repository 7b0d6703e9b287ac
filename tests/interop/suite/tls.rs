//! Scenes of TLS and of connections.

use super::{env, session, with_token, Client, Command, Line, Suite, API, HAS_SYSTEM_ROOTS};

impl Suite {
    pub(super) fn tls(&mut self) {
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
            "Exchange: the issuer of the server's certificate is not among this system's roots: \
             Session::root_certificates adds roots ("
        } else {
            "Exchange: the issuer of the server's certificate is not among the compiled-in \
             roots: Session::root_certificates adds roots, and the feature system-roots trusts this \
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

    /// Checks common to all requests.
    pub(super) fn connections(&mut self) {
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
