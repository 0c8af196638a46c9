//! `nitrotap host`: the gateway on the EC2 parent, in gvproxy's place.

#[expect(dead_code, reason = "the command line comes next")]
mod control;
#[cfg_attr(not(test), expect(dead_code, reason = "the command line comes next"))]
mod dns;
#[expect(dead_code, reason = "the command line comes next")]
mod engine;
