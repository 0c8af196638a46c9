//! Every input that a fuzzer found interesting stays a test.

use std::path::Path;

#[test]
fn the_committed_corpus_of_gvproxy_decode_passes() {
    passes("gvproxy_decode", nitrotap_fuzz::gvproxy_decode);
}

#[test]
fn the_committed_corpus_of_qemu_decode_passes() {
    passes("qemu_decode", nitrotap_fuzz::qemu_decode);
}

#[test]
fn the_committed_corpus_of_ipv4_reassembly_passes() {
    passes("ipv4_reassembly", nitrotap_fuzz::ipv4_reassembly);
}

#[test]
fn the_committed_corpus_of_policy_rule_passes() {
    passes("policy_rule", nitrotap_fuzz::policy_rule);
}

#[test]
fn the_committed_corpus_of_proxy_protocol_passes() {
    passes("proxy_protocol", nitrotap_fuzz::proxy_protocol);
}

#[test]
fn the_committed_corpus_of_http1_request_passes() {
    passes("http1_request", nitrotap_fuzz::http1_request);
}

#[test]
fn the_committed_corpus_of_http1_response_passes() {
    passes("http1_response", nitrotap_fuzz::http1_response);
}

#[test]
fn the_committed_corpus_of_gateway_frames_passes() {
    passes("gateway_frames", nitrotap_fuzz::gateway_frames);
}

#[test]
fn the_committed_corpora_of_offload_pass() {
    passes("segment", nitrotap_fuzz::segment);
    passes("coalesce", nitrotap_fuzz::coalesce);
    passes("vnet_header", nitrotap_fuzz::vnet_header);
}

#[test]
fn the_committed_corpora_of_the_loops_pass() {
    passes("loop_egress", nitrotap_fuzz::loop_egress);
    passes("loop_ingress", nitrotap_fuzz::loop_ingress);
    passes("loop_link", nitrotap_fuzz::loop_link);
    passes("loop_host", nitrotap_fuzz::loop_host);
}

fn passes(name: &str, target: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let files = nitrotap_fuzz::replay(&folder, target).expect("the corpus is readable");
    assert!(files >= 10, "only {files} files in {}", folder.display());
}

#[test]
fn the_committed_corpus_of_dhcp_server_passes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/dhcp_server");
    let files = nitrotap_fuzz::replay(&folder, nitrotap_fuzz::dhcp_server).expect("the corpus is readable");
    assert!(files >= 5, "only {files} files in {}", folder.display());
}

#[test]
fn the_committed_corpus_of_dns_front_passes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/dns_front");
    let files = nitrotap_fuzz::replay(&folder, nitrotap_fuzz::dns_front).expect("the corpus is readable");
    assert!(files >= 5, "only {files} files in {}", folder.display());
}
