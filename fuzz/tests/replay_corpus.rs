//! Every input that a fuzzer found interesting stays a test.

use std::path::Path;

#[test]
fn the_committed_corpus_of_gvproxy_decode_passes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/gvproxy_decode");
    let files = nitrotap_fuzz::replay(&folder, nitrotap_fuzz::gvproxy_decode).expect("the corpus is readable");
    assert!(files >= 10, "only {files} files in {}", folder.display());
}
