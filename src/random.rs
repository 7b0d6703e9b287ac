//! A number that nobody can guess. Called where pauses are spread, and where a password is made.

use std::hash::{BuildHasher, Hasher};

/// A number that differs from call to call, by the system's randomness.
pub(crate) fn random() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
