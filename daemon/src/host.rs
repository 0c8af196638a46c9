//! `nitrotap host`: the gateway on the EC2 parent, in gvproxy's place.

#[expect(dead_code, reason = "the command line comes next")]
mod control;
#[expect(dead_code, reason = "the command line comes next")]
mod engine;
