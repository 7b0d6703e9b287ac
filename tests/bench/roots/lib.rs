//! The compiled-in roots that all clients trust: Mozilla's, and one more, which the benchmark creates before
//! it builds the clients.
#![no_std]

use pki_types::{Der, TrustAnchor};

pub const TLS_SERVER_ROOTS: &[TrustAnchor<'static>] = &include!(env!("BENCH_ROOTS"));
