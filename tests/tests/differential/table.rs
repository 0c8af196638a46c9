//! Where our gateway means to differ from gvproxy 0.8.1.

/// One fact that differs, and why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Difference {
    pub(crate) key: &'static str,
    pub(crate) stock: &'static str,
    pub(crate) ours: &'static str,
    pub(crate) reason: &'static str,
}

pub(crate) const DIFFERENCES: &[Difference] = &[];
