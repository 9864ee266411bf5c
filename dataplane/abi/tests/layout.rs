//! The layout is an interface: a change here needs a new [`turnpike_abi::ABI_VERSION`].

use turnpike_abi::table::{Reader, Section, TableHeader, TableKind, Writer, ZoneRecord, policy};
use turnpike_abi::{ABI_VERSION, Address, Prefix, layout::LAYOUT_HASH, steering};
use zerocopy::IntoBytes;

/// One line for each version ever released. Add a line, never change one.
const RELEASED: &[(u32, u64)] = &[(1, 0x23f9d010fd11b623), (2, 0xc5c457e065f034c8)];

#[test]
fn a_changed_layout_has_a_new_version() {
    let (version, hash) = *RELEASED.last().unwrap();
    assert_eq!(version, ABI_VERSION, "add (ABI_VERSION, LAYOUT_HASH) to RELEASED");
    assert_eq!(
        hash,
        LAYOUT_HASH,
        "the layout changed: raise ABI_VERSION and add ({}, {LAYOUT_HASH:#x})",
        ABI_VERSION + 1
    );
}

#[test]
fn ipv4_prefixes_count_their_own_bits() {
    let prefix = Prefix::new(Address::v4([192, 0, 2, 77]), 24).unwrap();
    assert_eq!(prefix.to_string(), "192.0.2.0/24");
    assert!(prefix.is_canonical());
    assert!(prefix.contains(Address::v4([192, 0, 2, 255])));
    assert!(!prefix.contains(Address::v4([192, 0, 3, 0])));
    assert!(!prefix.contains(Address([0; 16])));
    assert!(Prefix::new(Address::v4([0; 4]), 33).is_none());
    assert!(Prefix::ANY.contains(Address::v4([1, 2, 3, 4])));
}

#[test]
fn every_owner_is_a_worker() {
    for workers in 1..=64u8 {
        for low in 0..=255u8 {
            assert!(steering::owner_of_inside(Address::v4([10, 0, 0, low]), workers).0 < workers);
        }
        for port in (0..=u16::MAX).step_by(97) {
            assert!(steering::owner_of_port(port, workers).0 < workers);
        }
    }
    assert_eq!(steering::owner_of_port(5, 0).0, 0);
}

#[test]
fn a_table_reads_back() {
    let zones = [ZoneRecord::default(); 3];
    let mut writer = Writer::new(TableKind::POLICY, 7);
    let offset = writer.place(policy::ZONES, &zones);
    let mut bytes = vec![0u64; writer.length().div_ceil(8)];
    let table = &mut bytes.as_mut_bytes()[..writer.length()];
    table[..writer.header().as_bytes().len()].copy_from_slice(writer.header().as_bytes());
    table[offset..offset + size_of_val(&zones)].copy_from_slice(zones.as_bytes());
    let reader = Reader::new(table).unwrap();
    assert_eq!((reader.kind(), reader.generation()), (TableKind::POLICY, 7));
    assert_eq!(reader.section::<ZoneRecord>(policy::ZONES).unwrap(), zones);
    assert!(reader.section::<ZoneRecord>(policy::POOLS).unwrap().is_empty());
    assert!(Reader::new(&table[..10]).is_err());
}

/// Whatever a header claims, records come from behind it and from inside the table, or not at all.
#[test]
fn a_section_lies_behind_the_header_and_inside_the_table() {
    const HEADER: u32 = size_of::<TableHeader>() as u32;
    let records = [ZoneRecord::default(); 3];
    let mut writer = Writer::new(TableKind::POLICY, 1);
    let offset = writer.place(policy::ZONES, &records);
    let size = size_of::<ZoneRecord>() as u32;
    let read = |section: Section| {
        let mut header = *writer.header();
        header.sections[policy::ZONES] = section;
        let mut words = vec![0u64; writer.length().div_ceil(8)];
        let bytes = &mut words.as_mut_bytes()[..writer.length()];
        bytes[..HEADER as usize].copy_from_slice(header.as_bytes());
        bytes[offset..].copy_from_slice(records.as_bytes());
        let reader = Reader::new(bytes).expect("a sound header");
        reader.section::<ZoneRecord>(policy::ZONES).map(<[_]>::len).map_err(|fault| fault.what)
    };
    assert_eq!(read(Section { offset: HEADER, count: 3 }), Ok(3));
    assert_eq!(read(Section { offset: 4, count: 0 }), Ok(0));
    assert_eq!(read(Section { offset: 0, count: 1 }), Err("section lies in the header"));
    assert_eq!(read(Section { offset: HEADER - 8, count: 1 }), Err("section lies in the header"));
    assert_eq!(read(Section { offset: HEADER + 4, count: 1 }), Err("section not aligned"));
    assert_eq!(read(Section { offset: HEADER, count: 4 }), Err("section runs past the table"));
    assert_eq!(read(Section { offset: HEADER, count: u32::MAX }), Err("section runs past the table"));
    assert_eq!(read(Section { offset: HEADER + 8 * size, count: 1 }), Err("section begins past the table"));
}
