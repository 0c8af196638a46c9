//! An initial file system in the form the kernel unpacks: a cpio archive in its "newc" format.
//!
//! Source: Linux `Documentation/driver-api/early-userspace/buffer-format.rst`. Not compressed; the kernel takes it so.

/// An archive in the making. Folders come before what is in them.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub(super) fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER | 0o755, &[]);
    }

    pub(super) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, FILE | permissions, content);
    }

    /// A symbolic link, whose target need not exist.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.entry(path, LINK | 0o777, target.as_bytes());
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    /// Magic number and thirteen fields of eight hexadecimal digits, the name with its final zero, the content; name and
    /// content are padded to multiples of four bytes from the start of the archive.
    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        let length = |n: usize| u32::try_from(n).expect("a file in an initramfs is smaller than 4 GiB");
        self.entries += 1;
        let links = if mode & FOLDER == FOLDER { 2 } else { 1 };
        let (size, name_size) = (length(content.len()), length(path.len() + 1));
        // Inode, mode, owner and group (root), links, time, size, device and special device (two each), name, checksum.
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// File types, as in `stat(2)`.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_laid_out_as_the_kernel_documents_it() {
        let mut archive = Archive::default();
        archive.file("a", 0o644, b"hello");
        let bytes = archive.finish();
        let head = "070701\
            00000001\
            000081a4\
            00000000\
            00000000\
            00000001\
            00000000\
            00000005\
            00000000\
            00000000\
            00000000\
            00000000\
            00000002\
            00000000";
        assert_eq!(bytes[..110], *head.as_bytes());
        assert_eq!(bytes[110..112], *b"a\0");
        assert_eq!(bytes[112..120], *b"hello\0\0\0");
        assert!(bytes[120..].starts_with(b"070701"));
        assert_eq!(bytes.len() % 4, 0);
    }
}
