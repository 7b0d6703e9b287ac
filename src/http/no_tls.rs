//! Replaces `tls` in builds without it.

/// Without TLS there are no roots.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Roots(());

impl Roots {
    #[allow(clippy::unused_self, reason = "with TLS it is used")]
    pub(crate) fn extended(&self, _: &[u8]) -> Result<Roots, String> {
        Err("need TLS: turn on the feature tls (or system-roots) of jas-session".to_owned())
    }
}
