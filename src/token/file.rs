//! The token file, which keeps the token from one run of a job to the next. Called by `token`.
//! Knows nothing of token requests. Whatever is wrong with the file is only logged.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use miniserde::{json::to_string, Deserialize, Serialize};

use super::{Client, Token, LONGEST_LIFETIME};
use crate::json;
use crate::retry::random;
use crate::url::check_visible;

/// The maximum size of a token file.
const MAX_SIZE: u64 = 64 * 1024;

/// Stores the token for other runs and processes. A trait, so that a program without a token file
/// does not contain the code (13 kB).
pub(super) trait TokenStore: Send + Sync {
    /// Returns the stored token if it was issued to this client and is still valid.
    fn read(&self, client: &Client) -> Option<Token>;

    fn write(&self, client: &Client, token: &Token);

    /// Removes a refused token, so that no other process uses it.
    fn remove(&self, client: &Client, refused: &str);
}

/// The file at this path.
pub(super) struct TokenFile(pub(super) PathBuf);

/// The content of the file, as JSON.
#[derive(Serialize, Deserialize)]
struct StoredToken {
    token_endpoint: String,
    client_id: String,
    access_token: String,
    /// Seconds since 1970.
    written_at: u64,
    /// The lifetime that was left then, in seconds.
    expires_in: u64,
}

impl TokenStore for TokenFile {
    fn read(&self, client: &Client) -> Option<Token> {
        let read = self.try_read(client, now());
        read.unwrap_or_else(|why| {
            log_event!(warn, "no token from {}: {why}", self.0.display());
            None
        })
    }

    fn write(&self, client: &Client, token: &Token) {
        if let Err(why) = self.try_write(client, token, now()) {
            log_event!(warn, "the token could not be stored in {}: {why}", self.0.display());
        }
    }

    fn remove(&self, client: &Client, refused: &str) {
        if self.read(client).is_some_and(|token| *token.value == *refused) {
            let _ = fs::remove_file(&self.0);
        }
    }
}

impl TokenFile {
    fn try_read(&self, client: &Client, now: u64) -> Result<Option<Token>, Box<dyn Error>> {
        // Opening a FIFO read-only would block until there is a writer.
        let file = match OpenOptions::new().read(true).write(true).open(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err("it is not a file".into());
        }
        #[cfg(unix)]
        check_private(&metadata)?;
        let mut text = String::new();
        file.take(MAX_SIZE).read_to_string(&mut text)?;
        let stored: StoredToken = json::read(&text).ok_or("it is damaged")?;
        // Only a damaged file holds a token that no header field can carry.
        check_visible("access token", &stored.access_token).map_err(|_| "it is damaged")?;
        if (&stored.token_endpoint, &stored.client_id) != (&endpoint(client), &client.id) {
            return Err("it is another client's".into());
        }
        // A clock that was set back would make an old token look new.
        let age = now.checked_sub(stored.written_at).ok_or("it was written in the future")?;
        let lifetime = Duration::from_secs(stored.expires_in).min(LONGEST_LIFETIME);
        let left = lifetime.saturating_sub(Duration::from_secs(age));
        let (value, expiry) = (stored.access_token.into(), Instant::now() + left);
        let token = Token { value, lifetime, expiry, from_file: true };
        Ok((!left.is_zero()).then_some(token))
    }

    /// Replaces the file in one step, so that other processes read the old one or the new one.
    fn try_write(&self, client: &Client, token: &Token, now: u64) -> io::Result<()> {
        let left = token.expiry.saturating_duration_since(Instant::now());
        let stored = StoredToken {
            token_endpoint: endpoint(client),
            client_id: client.id.clone(),
            access_token: token.value.to_string(),
            written_at: now,
            expires_in: left.as_secs(),
        };
        if fs::metadata(&self.0).is_ok_and(|found| !found.is_file()) {
            return Err(io::Error::other("it is not a file"));
        }
        // Another process may write at the same time.
        let mut part = self.0.clone().into_os_string();
        part.push(format!(".{:016x}", random()));
        let mut options = OpenOptions::new();
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.write(true).create_new(true).open(&part)?;
        let written = file.write_all(to_string(&stored).as_bytes());
        let written = written.and_then(|()| fs::rename(&part, &self.0));
        written.inspect_err(|_| drop(fs::remove_file(&part)))
    }
}

/// Returns the whole URL with its query, which may decide for whom the endpoint issues tokens.
fn endpoint(client: &Client) -> String {
    format!("{}{}", client.endpoint.origin.text, client.endpoint.path)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Fails if another user can read the file, or wrote it. On other systems its directory has to keep
/// them out, such as `%LOCALAPPDATA%` on Windows.
#[cfg(unix)]
fn check_private(file: &fs::Metadata) -> io::Result<()> {
    use std::os::{fd::OwnedFd, unix::fs::MetadataExt as _, unix::net::UnixStream};
    // This process's user owns the sockets that it makes. The standard library has no other way to
    // ask for the user, and `/proc` is Linux's.
    let (socket, _) = UnixStream::pair()?;
    if file.uid() != fs::File::from(OwnedFd::from(socket)).metadata()?.uid() {
        return Err(io::Error::other("it is another user's"));
    }
    if file.mode() & 0o077 != 0 {
        return Err(io::Error::other("others may read it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::url::Url;

    const NOW: u64 = 1_800_000_000;

    /// A file of this test's own, gone when it is dropped.
    struct Scratch(TokenFile);

    impl Scratch {
        fn new() -> Scratch {
            let name = format!("jas-session-token-{:016x}", random());
            Scratch(TokenFile(std::env::temp_dir().join(name)))
        }

        fn read(&self, now: u64) -> Result<Option<Token>, String> {
            self.0.try_read(&client("id", ""), now).map_err(|error| error.to_string())
        }

        fn write(&self, content: &[u8]) {
            let mut options = OpenOptions::new();
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let options = options.write(true).create(true).truncate(true);
            let mut file = options.open(&self.0 .0).unwrap();
            file.write_all(content).unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0 .0);
        }
    }

    fn client(id: &str, query: &str) -> Client {
        Client {
            endpoint: Url::parse("URL", &format!("https://api.example.com/token{query}")).unwrap(),
            id: id.into(),
            secret: "hush".into(),
        }
    }

    #[test]
    fn token_is_stored_with_its_lifetime() {
        let file = Scratch::new();
        assert!(matches!(file.read(NOW), Ok(None)));
        let token = Token::new("a\\b\"c", Duration::from_secs(600), Instant::now());
        file.0.try_write(&client("id", ""), &token, NOW).unwrap();
        let left = |now| {
            let token = file.read(now).unwrap()?;
            assert_eq!(&*token.value, "a\\b\"c");
            let left = token.expiry.saturating_duration_since(Instant::now());
            Some((token.lifetime.as_secs(), left.as_secs()))
        };
        // Each number is rounded down to whole seconds, and a moment passes.
        assert_eq!(left(NOW), Some((599, 598)));
        assert_eq!(left(NOW + 597), Some((599, 1)));
        assert_eq!(left(NOW + 599), None);
        assert_eq!(left(u64::MAX), None);
        // The file contains no other secret.
        assert!(!fs::read_to_string(&file.0 .0).unwrap().contains("hush"));
    }

    #[test]
    fn unusable_file_is_an_error_that_says_why() {
        let file = Scratch::new();
        let token = Token::new("token", Duration::from_secs(600), Instant::now());
        let write = |client| file.0.try_write(&client, &token, NOW).unwrap();
        for other in [client("id", "?x"), client("Id", "")] {
            write(other);
            assert_eq!(file.read(NOW).err().as_deref(), Some("it is another client's"));
        }
        write(client("id", ""));
        assert_eq!(file.read(NOW - 1).err().as_deref(), Some("it was written in the future"));
        let good = fs::read_to_string(&file.0 .0).unwrap();
        let damaged = [
            String::new(),
            "{}".into(),
            good[..good.len() - 1].into(),
            good.replace("\"token\"", "\"a b\""),
            good.replace("\"token\"", "\"a\\r\\nb\""),
            good.replace("599", "-1"),
            good.replace("599", "\"599\""),
            " ".repeat(usize::try_from(MAX_SIZE).unwrap()) + &good,
        ];
        for content in damaged {
            file.write(content.as_bytes());
            assert_eq!(file.read(NOW).err().as_deref(), Some("it is damaged"));
        }
        file.write(b"\xff\xfe");
        assert!(file.read(NOW).is_err());
        // No number in it is too large.
        file.write(good.replace("599", &u64::MAX.to_string()).as_bytes());
        assert_eq!(file.read(NOW).unwrap().unwrap().lifetime, LONGEST_LIFETIME);
        let directory = TokenFile(std::env::temp_dir());
        assert!(directory.try_read(&client("id", ""), NOW).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn file_that_others_can_read_or_own_is_not_used() {
        use std::os::unix::fs::{chown, PermissionsExt as _};
        let file = Scratch::new();
        let token = Token::new("token", Duration::from_secs(600), Instant::now());
        file.0.try_write(&client("id", ""), &token, NOW).unwrap();
        let mode = |mode| {
            fs::set_permissions(&file.0 .0, fs::Permissions::from_mode(mode)).unwrap();
            file.read(NOW).err()
        };
        for others in [0o604, 0o640, 0o602, 0o610] {
            assert_eq!(mode(others).as_deref(), Some("others may read it"));
        }
        assert_eq!(mode(0o600), None);
        // Only root can give a file away, and not under every emulation.
        if chown(&file.0 .0, Some(1), None).is_ok() {
            assert_eq!(mode(0o600).as_deref(), Some("it is another user's"));
        }
    }
}
