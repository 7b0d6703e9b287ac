//! One TLS connection: the handshake, and the stream. Called by `connection`. Knows nothing of
//! HTTP.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, HandshakeKind};

use super::errors::{alert_meaning, handshake_error, io_error, tls_error, NOT_SET_UP, NO_NAME};
use super::{Client, Roots, BROKEN, REFUSED};
use crate::error::Error;
use crate::http::socket::{self, Socket, Stream as _};
use crate::http::{CallContext, Deadline};

/// A TLS connection whose every read and write ends by the deadline of its socket.
pub(in crate::http) struct Stream {
    tls: ClientConnection,
    socket: Records,
    client: Arc<Client>,
    server: ServerName<'static>,
}

/// A socket that knows whether a record of TLS was read only in part.
struct Records {
    socket: Socket,
    /// The header bytes received so far, as a number that starts with a 1. The position of the 1
    /// shows how many there are.
    header: u64,
    /// Bytes of the record that are still to come.
    left: usize,
}

impl Stream {
    /// Connects to this host and does the handshake. If the handshake fails, and an earlier session
    /// may have been offered, does a full handshake on a second connection. rustls does not report
    /// whether it offered one, but only a server that completed a handshake can have issued one.
    pub(in crate::http) fn open(
        host: &str, roots: &Roots, call: &CallContext, connect: impl Fn() -> Result<Socket, Error>,
    ) -> Result<Box<Stream>, Error> {
        let client = roots.client().map_err(|cause| {
            let other = || call.error(NOT_SET_UP).with_source(cause).retryable(false);
            call.refused_files().unwrap_or_else(other)
        })?;
        let server = ServerName::try_from(host.to_owned());
        let server =
            server.map_err(|cause| call.error(NO_NAME).with_source(cause).retryable(false))?;
        loop {
            let may_resume = client.may_resume(&server);
            // A failed connection is closed before the next one: the server may have one worker
            // only.
            let cause = match Stream::shake_hands(connect()?, &client, &server, may_resume) {
                Ok(stream) => {
                    client.known().entry(server).or_insert(Deadline::after(Duration::ZERO));
                    return Ok(stream);
                }
                Err(cause) => cause,
            };
            // A refused certificate shows that the handshake was full: a resumed one has none.
            let is_full = matches!(tls_error(&cause), Some(rustls::Error::InvalidCertificate(_)));
            let was_offered = may_resume && !is_full && client.known().contains_key(&server);
            if was_offered {
                client.offer_no_session(&server, REFUSED);
            }
            if !was_offered || call.deadline.remaining().is_zero() {
                return Err(handshake_error(call, cause));
            }
        }
    }

    fn shake_hands(
        socket: Socket, client: &Arc<Client>, server: &ServerName<'static>, may_resume: bool,
    ) -> io::Result<Box<Stream>> {
        let (client, server) = (Arc::clone(client), server.clone());
        let mut config = Arc::clone(&client.config);
        if !may_resume {
            Arc::make_mut(&mut config).resumption = Resumption::disabled();
        }
        let tls = ClientConnection::new(config, server.clone()).map_err(io_error)?;
        let socket = Records { socket, header: 1, left: 0 };
        // Boxed at once: it is large, and threads may have a small stack.
        let mut stream = Box::new(Stream { tls, socket, client, server });
        while stream.tls.is_handshaking() {
            let Err(cause) = stream.tls.complete_io(&mut stream.socket) else { continue };
            if cause.kind() != io::ErrorKind::WouldBlock {
                // The server may have sent an alert before it closed.
                stream.socket().blocking = false;
                let _ = stream.tls.read_tls(&mut stream.socket);
                stream.tls.process_new_packets().map_err(io_error)?;
                return Err(cause);
            }
        }
        Ok(stream)
    }

    /// Sends pending TLS messages, such as new keys or an alert, without waiting. Ignores errors:
    /// the response may still be readable.
    fn flush_nonblocking(&mut self) {
        let blocking = std::mem::replace(&mut self.socket().blocking, false);
        let _ = self.flush();
        self.socket().blocking = blocking;
    }
}

impl socket::Stream for Stream {
    fn writer(&mut self) -> &mut dyn Write {
        self
    }

    fn socket(&mut self) -> &mut Socket {
        &mut self.socket.socket
    }

    fn has_unread_data(&self) -> bool {
        // rustls does not want to read while it holds plaintext.
        let Records { header, left, .. } = self.socket;
        left > 0 || header != 1 || !self.tls.wants_read()
    }

    fn close(&mut self) {
        if !self.tls.wants_write() {
            self.tls.send_close_notify();
            self.flush_nonblocking();
        }
    }

    fn refusal(&self, cause: &io::Error) -> Option<(&'static str, bool)> {
        if self.tls.handshake_kind() == Some(HandshakeKind::Resumed) {
            self.client.offer_no_session(&self.server, BROKEN);
        }
        alert_meaning(tls_error(cause)?, self.tls.protocol_version()?)
    }
}

impl BufRead for Stream {
    /// Returns the content received so far. If there is none yet, waits for some. Returns nothing
    /// if the server has announced the end (`close_notify`). A connection that ends without
    /// `close_notify` is an error.
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let blocking = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
        while self.tls.reader().fill_buf().is_err_and(blocking) {
            // Report an earlier failure, now that the content before it has been read.
            let state = self.tls.process_new_packets().map(drop);
            self.flush_nonblocking();
            state.map_err(io_error)?;
            self.tls.read_tls(&mut self.socket)?;
            let _ = self.tls.process_new_packets();
        }
        self.tls.reader().into_first_chunk()
    }

    fn consume(&mut self, length: usize) {
        self.tls.reader().consume(length);
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.fill_buf()?;
        self.tls.reader().read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let n = self.tls.writer().write(bytes)?;
        // The next write or flush sends the rest, or fails again.
        let _ = self.flush();
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

impl Read for Records {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.socket.read(buffer)?;
        let mut bytes = &buffer[..length];
        loop {
            let rest = bytes.get(self.left..).unwrap_or_default();
            self.left -= bytes.len() - rest.len();
            let [byte, rest @ ..] = rest else { return Ok(length) };
            bytes = rest;
            self.header = self.header << 8 | u64::from(*byte);
            // The header has five bytes: the type, the version, and the length in two.
            if self.header >> 40 == 1 {
                self.left = (self.header & 0xffff) as usize;
                self.header = 1;
            }
        }
    }
}

impl Write for Records {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
