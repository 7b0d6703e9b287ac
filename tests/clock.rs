//! A clock before 1970: every call ends with its result or an error.
#![cfg(all(feature = "tls", target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]

use std::cell::Cell;
use std::time::SystemTime;

use jas_session::{ErrorKind, Response, Session};

#[path = "support/wire/site.rs"]
mod site;
#[path = "support/wire/mod.rs"]
mod wire;
use site::{Over, Site, BOTH};
use wire::tls::scratch::Directory;

thread_local! {
    /// Whether the clock of this thread is before 1970. The servers have other threads.
    static IS_EARLY: Cell<bool> = const { Cell::new(false) };
}

/// Replaces the system's function in this program.
#[allow(unsafe_code, reason = "the standard library can't set the clock")]
#[no_mangle]
extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    // SAFETY: these are the caller's arguments.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    if clock == libc::CLOCK_REALTIME && IS_EARLY.get() {
        // SAFETY: the system has just written to the caller's memory.
        unsafe { (*time).tv_sec = -1000 };
    }
    libc::c_int::try_from(result).unwrap()
}

#[test]
fn clock_before_1970_is_reported_and_causes_no_panic() {
    for &over in BOTH {
        let directory = Directory::new();
        let site = Site::start(over, |mut peer| peer.serve_all());
        IS_EARLY.set(true);
        assert!(SystemTime::now() < SystemTime::UNIX_EPOCH);
        let session = Session::new(&site.url(), "id", "secret").unwrap().retries(0);
        let session = session.token_file(directory.file("token")).unwrap();
        let get = |session: &Session| session.get("/").and_then(Response::text);
        let session = site::trusting(session);
        if over == Over::Plain {
            // The second call uses an idle connection, the third a token from the file.
            for session in [&session, &session.clone(), &session] {
                assert_eq!(get(session).unwrap(), "GET /");
                session.invalidate("new");
            }
        } else {
            // The second handshake must not panic at what rustls remembers of the first.
            for _ in 0..2 {
                let error = get(&session).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Exchange);
                // To the letter here, since no other test has such a clock.
                let clock = "this device's clock is wrong: it says Thu, 01 Jan 1970 00:00:00 GMT";
                assert!(error.to_string().ends_with(clock), "{error:#}");
            }
        }
        IS_EARLY.set(false);
        drop(session);
        drop(site);
    }
}
