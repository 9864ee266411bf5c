//! The layout is an interface: a change here needs a new [`turnpike_abi::ABI_VERSION`].

use turnpike_abi::table::{Reader, TableKind, Writer, ZoneRecord, policy};
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
fn a_table_reads_back_and_refuses_sections_outside_itself() {
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

    let count_at = 40 + policy::ZONES * 8 + 4;
    for count in [4u32, u32::MAX] {
        table[count_at..count_at + 4].copy_from_slice(&count.to_ne_bytes());
        assert!(Reader::new(table).unwrap().section::<ZoneRecord>(policy::ZONES).is_err());
    }
    assert!(Reader::new(&table[..10]).is_err());
}
