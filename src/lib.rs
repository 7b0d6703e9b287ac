//! A blocking session for the JAS freight APIs.

/// Tells the `log` crate, if the feature is on.
#[cfg(feature = "log")]
macro_rules! tell {
    ($level:ident, $($message:tt)*) => { log::$level!(target: "jas_session", $($message)*) };
}
#[cfg(not(feature = "log"))]
macro_rules! tell {
    ($level:ident, $($message:tt)*) => { if false { let _ = format_args!($($message)*); } };
}

mod error;
mod exchange;
mod relay;
mod response;
mod retry;
mod session;
mod token;
mod url;

pub use error::{Error, ErrorKind};
pub use miniserde;
pub use response::Response;
pub use session::Session;

/// What requests say they come from, unless `Session::header` replaces it.
const USER_AGENT: &str = concat!("jas-session/", env!("CARGO_PKG_VERSION"));
