//! The servers that the script has not started, and the logs of nginx.

use super::*;

/// A server of servers.mjs. Dropping this stops it.
pub(super) struct Server {
    pub(super) name: &'static str,
    pub(super) port: u16,
    pub(super) process: Child,
}

impl Server {
    pub(super) fn start(name: &'static str, port: u16) -> Server {
        let process = Server::spawn(name, port);
        Server { name, port, process }
    }

    pub(super) fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Stops the server, waits, and starts it again.
    pub(super) fn restart_after(&mut self, pause: Duration) {
        self.stop();
        thread::sleep(pause);
        self.process = Server::spawn(self.name, self.port);
    }

    pub(super) fn spawn(name: &str, port: u16) -> Child {
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
pub(super) struct Log {
    pub(super) file: fs::File,
    /// The beginning of an incomplete line.
    pub(super) part: String,
}

impl Log {
    /// Skips what the file already holds.
    pub(super) fn open(path: &str) -> Log {
        let mut file = fs::File::open(path).unwrap();
        io::Seek::seek(&mut file, io::SeekFrom::End(0)).unwrap();
        let part = String::new();
        Log { file, part }
    }

    pub(super) fn new_lines(&mut self) -> Vec<String> {
        self.file.read_to_string(&mut self.part).unwrap();
        let end = self.part.rfind('\n').map_or(0, |i| i + 1);
        let rest = self.part.split_off(end);
        let lines = std::mem::replace(&mut self.part, rest);
        lines.lines().map(str::to_owned).collect()
    }
}

/// A request in nginx's log, in the format `lines`.
pub(super) struct Line {
    pub(super) method: String,
    pub(super) uri: String,
    pub(super) status: String,
    pub(super) protocol: String,
    pub(super) tls: String,
    pub(super) is_resumed: bool,
    /// Whether it is the first of its connection.
    pub(super) is_first: bool,
}

impl Line {
    pub(super) fn new(line: &str) -> Line {
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
