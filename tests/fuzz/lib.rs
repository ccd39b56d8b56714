//! What the fuzz targets check; the claims lie where the normal tests use them too.

#[path = "../corpus/claims.rs"]
pub mod claims;
