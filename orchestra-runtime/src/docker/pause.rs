//! What holds a sandbox open: a program that only waits, made here, so that it need not be had from anywhere.

use std::io;

/// The image's name on the engine.
pub(super) const PAUSE_IMAGE: &str = "orchestra/pause:1";
/// The program's path in the image.
pub(super) const PAUSE_PROGRAM: &str = "/pause";

/// Makes the image's files, as a tarball, for this machine's processor; none if it is not one of those known.
pub(super) fn rootfs() -> Option<Vec<u8>> {
    let (machine, code): (u16, &[u8]) = match std::env::consts::ARCH {
        // mov eax, 34 (pause); syscall; jmp to the start
        "x86_64" => (62, &[0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7]),
        // mov x0..x4, 0; mov x8, 73 (ppoll); svc 0; b to the start
        "aarch64" => (
            183,
            &[
                0x00, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x80, 0xd2, 0x02, 0x00, 0x80, 0xd2, 0x03, 0x00, 0x80, 0xd2, 0x04,
                0x00, 0x80, 0xd2, 0x28, 0x09, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4, 0xf9, 0xff, 0xff, 0x17,
            ],
        ),
        _ => return None,
    };
    tarball(&elf(machine, code)).ok()
}

/// Makes a static program of `code`: an ELF header, one segment, the code; elf(5).
fn elf(machine: u16, code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADER_BYTES: u16 = 64;
    const SEGMENT_BYTES: u16 = 56;
    const PAGE_BYTES: u64 = 0x1_0000;
    let start = u64::from(HEADER_BYTES + SEGMENT_BYTES);
    let size = start + code.len() as u64;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend([2, 0]); // an executable
    elf.extend(machine.to_le_bytes());
    elf.extend(1_u32.to_le_bytes()); // the version
    elf.extend((BASE + start).to_le_bytes()); // where it begins to run
    elf.extend(u64::from(HEADER_BYTES).to_le_bytes()); // where the segments are described
    elf.extend([0; 12]); // no sections, no flags
    elf.extend([HEADER_BYTES, SEGMENT_BYTES, 1, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]); // a segment to load, to read and to execute
    elf.extend([0, BASE, BASE, size, size, PAGE_BYTES].iter().flat_map(|word| word.to_le_bytes()));
    elf.extend_from_slice(code);
    elf
}

fn tarball(program: &[u8]) -> io::Result<Vec<u8>> {
    const MODE: u32 = 0o755;
    let mut header = tar::Header::new_gnu();
    header.set_size(program.len() as u64);
    header.set_mode(MODE);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, PAUSE_PROGRAM.trim_start_matches('/'), program)?;
    tar.into_inner()
}
