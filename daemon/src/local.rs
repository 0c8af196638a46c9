//! The pseudo-enclave of `nitrotap local`: a gateway outside, namespaces around the app, and a folder that both share.

pub(crate) mod folder;
pub(crate) mod gateway;
pub(crate) mod gvproxy;
pub(crate) mod namespace;
pub(crate) mod publish;
