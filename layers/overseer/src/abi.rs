//! The contracts between host and guest, one file each. The engine knows none of them.

pub(crate) mod arqon_host_v1;
pub(crate) mod shape;
