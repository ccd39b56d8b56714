//! What FAT has and nothing else: hidden, system and archive files. This machine's kernel may have no vfat, so a few files
//! are shown by a FUSE file system of the test's own, which answers FAT's ioctl. It is read-only, and knows nothing else.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{Mode, OFlags};

use super::Place;
use crate::support::{Need, require, run};

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_644;

/// A node: its name in the directory with the number before the arrow, its mode, FAT attributes and content.
struct Node(u64, &'static str, u32, u32, &'static str);

/// Number 1 is the top.
const NODES: [Node; 7] = [
    Node(0, "", DIRECTORY, 0, ""),
    Node(1, "AUTOEXEC.BAT", FILE, 32, "echo on"),
    Node(1, "IO.SYS", FILE & !0o222, 1 | 2 | 4, "system"),
    Node(1, "hidden", DIRECTORY, 2, ""),
    Node(1, "plain.txt", FILE, 0, "plain"),
    Node(3 + 1, "inside", FILE, 2 | 32, "inside of a hidden directory"),
    Node(1, "zero", FILE, 4, ""),
];

/// The file system, mounted; gone when dropped.
struct Fat {
    at: PathBuf,
}

impl Fat {
    fn mounted(at: &Path) -> Self {
        std::fs::create_dir(at).unwrap();
        // Handed to mount: not closed there.
        let device = rustix::fs::open("/dev/fuse", OFlags::RDWR, Mode::empty()).unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,ro", device.as_raw_fd());
        run(Command::new("mount").args(["-i", "-t", "fuse", "-o", &options, "fat"]).arg(at)).ok();
        #[allow(unsafe_code)]
        // SAFETY: the descriptor was opened above and belongs to nobody else.
        let device = unsafe { File::from_raw_fd(device.into_raw_fd()) };
        std::thread::spawn(move || serve(device));
        Self { at: at.to_owned() }
    }
}

impl Drop for Fat {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Answers until it is unmounted.
fn serve(mut device: File) {
    let mut request = vec![0; 1 << 20];
    while let Ok(length) = device.read(&mut request) {
        let (head, body) = request[..length].split_at(40);
        let (opcode, unique, node) = (word(head, 4), long(head, 8), long(head, 16));
        // Forgetting and interrupting have no answer.
        if [2, 36, 42].contains(&opcode) {
            continue;
        }
        let (error, answer) = match answer(opcode, node, body) {
            Ok(answer) => (0, answer),
            Err(error) => (-error, Vec::new()),
        };
        let mut out = ((answer.len() + 16) as u32).to_le_bytes().to_vec();
        out.extend(error.to_le_bytes());
        out.extend(unique.to_le_bytes());
        out.extend(answer);
        if device.write_all(&out).is_err() {
            return;
        }
    }
}

fn answer(opcode: u32, number: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
    const NOENT: i32 = 2;
    const NOTTY: i32 = 25;
    const NOSYS: i32 = 38;
    let node = NODES.get(number.wrapping_sub(1) as usize).ok_or(NOENT);
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    Ok(match opcode {
        // LOOKUP
        1 => {
            let name = body.strip_suffix(b"\0").unwrap_or(body);
            let found = NODES.iter().position(|node| node.0 == number && node.1.as_bytes() == name).ok_or(NOENT)?;
            let mut out = (found as u64 + 1).to_le_bytes().to_vec();
            out.resize(40, 0);
            out.extend(attributes(found as u64 + 1, &NODES[found]));
            out
        }
        // GETATTR
        3 => [&[0; 16][..], &attributes(number, node?)].concat(),
        // OPEN and OPENDIR
        14 | 27 => vec![0; 16],
        // READ
        15 => {
            let (content, offset) = (node?.4.as_bytes(), long(body, 8) as usize);
            content[content.len().min(offset)..].to_vec()
        }
        // STATFS
        17 => [vec![0; 40], words(&[512, 255, 512, 0]), vec![0; 24]].concat(),
        // RELEASE, FLUSH, RELEASEDIR, DESTROY
        18 | 25 | 29 | 38 => Vec::new(),
        // INIT
        26 => {
            let mut out = words(&[7, 31, 0, 0, 0, 1 << 16, 1]);
            out.resize(64, 0);
            out
        }
        // READDIR
        28 => {
            let children = NODES.iter().enumerate().filter(|(_, node)| node.0 == number);
            let mut out = Vec::new();
            for (place, (index, node)) in children.enumerate().skip(long(body, 8) as usize) {
                out.extend((index as u64 + 1).to_le_bytes());
                out.extend((place as u64 + 1).to_le_bytes());
                out.extend(words(&[node.1.len() as u32, node.2 >> 12]));
                out.extend(node.1.as_bytes());
                out.resize(out.len().next_multiple_of(8), 0);
            }
            out
        }
        // IOCTL: FAT_IOCTL_GET_ATTRIBUTES, FS_IOC_GETFLAGS
        39 => match word(body, 12) {
            0x8004_7210 => words(&[0, 0, 0, 0, node?.3]),
            0x8008_6601 => words(&[0, 0, 0, 0, 0]),
            _ => return Err(NOTTY),
        },
        _ => return Err(NOSYS),
    })
}

fn attributes(number: u64, node: &Node) -> Vec<u8> {
    let (size, time) = (node.4.len() as u64, 1_500_000_000 + 2 * number);
    let mut out: Vec<u8> = [number, size, 1, time, time, time].iter().flat_map(|long| long.to_le_bytes()).collect();
    out.extend([0, 0, 0, node.2, 1, 0, 0, 0, 512, 0].iter().flat_map(|word: &u32| word.to_le_bytes()));
    out
}

#[test]
fn archives_of_what_fat_shows_are_casyncs_byte_for_byte() {
    if !require(&[Need::Root, Need::Program("casync")]) || !Path::new("/dev/fuse").exists() {
        return;
    }
    let place = Place::new();
    let fat = Fat::mounted(&place.path("fat"));
    for options in [&[][..], &["--with=fat"], &["--with=flag-hidden", "--with=unix"], &["--with=fat-attrs"]] {
        let archive = place.both_make(&fat.at, options);
        assert!(archive.windows(6).any(|part| part == b"system"), "{options:?}");
    }
    let fat = fat.at.to_str().unwrap();
    for verb in ["mtree", "list", "digest"] {
        assert_eq!(place.ours(&[verb, fat]).ok().stdout, place.casync(&[verb, fat]).ok().stdout);
    }
    assert!(place.ours(&["mtree", fat]).ok().stdout.contains("flags=hidden,system,noarchive"));
    // Here there are no such attributes, which is said and no reason to stop.
    place.ours(&["make", "x.catar", fat]).ok();
    let ran = place.ours(&["extract", "x.catar", "out"]);
    ran.failed().says(&["out/IO.SYS", "FAT attributes", "--best-effort"]);
    assert_eq!(std::fs::read_to_string(place.path("out/hidden/inside")).unwrap(), "inside of a hidden directory");
    place.ours(&["extract", "--without=fat-attrs", "x.catar", "out"]).ok();
}
