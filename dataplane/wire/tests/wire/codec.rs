//! Ethernet and ARP.

use proptest::prelude::*;
use turnpike_wire::arp::{self, Arp};
use turnpike_wire::{Malformed, ethernet};

const US: [u8; 6] = [2, 0, 0, 0, 0, 9];
const THEM: [u8; 6] = [2, 0, 0, 0, 0, 5];

#[test]
fn a_second_tag_is_left_as_ethertype() {
    let mut frame = [0u8; 22];
    ethernet::write(&mut frame, US, THEM, Some(5), ethernet::ETHERTYPE_VLAN).unwrap();
    let parsed = ethernet::parse(&frame).unwrap();
    assert_eq!((parsed.vlan, parsed.ethertype, parsed.payload), (Some(5), ethernet::ETHERTYPE_VLAN, 18));
    ethernet::write(&mut frame, US, THEM, None, ethernet::ETHERTYPE_QINQ).unwrap();
    assert_eq!(ethernet::parse(&frame).unwrap().vlan, None);
}

#[test]
fn addresses_of_groups_and_stations() {
    assert!(ethernet::is_multicast(ethernet::BROADCAST));
    assert!(ethernet::is_multicast([0x33, 0x33, 0, 0, 0, 1]));
    assert!(ethernet::is_unicast_nonzero(US));
    assert!(!ethernet::is_unicast_nonzero([0; 6]));
    assert!(!ethernet::is_unicast_nonzero(ethernet::BROADCAST));
}

#[test]
fn nothing_is_written_where_it_does_not_fit() {
    let mut short = [0u8; 17];
    assert_eq!(ethernet::write(&mut short, US, THEM, Some(1), 0), None);
    assert_eq!(short, [0; 17]);
    assert_eq!(arp::write(&mut short, &request()), None);
    assert_eq!(short, [0; 17]);
}

fn request() -> Arp {
    Arp {
        operation: arp::REQUEST,
        sender_mac: THEM,
        sender_ip: [10, 0, 0, 2],
        target_mac: [0; 6],
        target_ip: [10, 0, 0, 1],
    }
}

#[test]
fn request_becomes_reply_in_a_tagged_frame() {
    let mut frame = [0u8; 64];
    let header =
        ethernet::write(&mut frame, ethernet::BROADCAST, THEM, Some(7), ethernet::ETHERTYPE_ARP).unwrap();
    arp::write(&mut frame[header..], &request()).unwrap();
    arp::reply_in_place(&mut frame, header, US).unwrap();

    let ethernet = ethernet::parse(&frame).unwrap();
    assert_eq!((ethernet.destination, ethernet.source, ethernet.vlan), (THEM, US, Some(7)));
    let expected = Arp {
        operation: arp::REPLY,
        sender_mac: US,
        sender_ip: [10, 0, 0, 1],
        target_mac: THEM,
        target_ip: [10, 0, 0, 2],
    };
    assert_eq!(arp::parse(&frame[header..]), Ok(expected));
    // Now it is a reply, and nobody answers those.
    let before = frame;
    assert_eq!(arp::reply_in_place(&mut frame, header, US), Err(Malformed::ArpMalformed));
    assert_eq!(arp::reply_in_place(&mut frame, 4, US), Err(Malformed::ArpMalformed));
    assert_eq!(arp::reply_in_place(&mut frame, 100, US), Err(Malformed::ArpMalformed));
    assert_eq!(frame, before);
}

proptest! {
    #[test]
    fn ethernet_agrees_with_etherparse(
        destination in any::<[u8; 6]>(),
        source in any::<[u8; 6]>(),
        vlan in prop::option::of(0u16..4096),
        ethertype in any::<u16>().prop_filter("no second tag", |kind| *kind != ethernet::ETHERTYPE_VLAN),
    ) {
        let mut frame = [0u8; 18];
        let length = ethernet::write(&mut frame, destination, source, vlan, ethertype).unwrap();
        let (header, rest) = etherparse::Ethernet2Header::from_slice(&frame[..length]).unwrap();
        prop_assert_eq!((header.destination, header.source), (destination, source));
        if let Some(id) = vlan {
            let (tag, _) = etherparse::SingleVlanHeader::from_slice(rest).unwrap();
            prop_assert_eq!((tag.vlan_id.value(), tag.ether_type.0), (id, ethertype));
        } else {
            prop_assert_eq!(header.ether_type.0, ethertype);
        }
        let payload = length;
        prop_assert_eq!(
            ethernet::parse(&frame[..length]),
            Ok(ethernet::Ethernet { destination, source, ethertype, vlan, payload })
        );
    }

    #[test]
    fn arp_agrees_with_etherparse(bytes in prop::collection::vec(any::<u8>(), 22), operation in 0u16..5, cut in 0usize..40) {
        let mut packet = vec![0, 1, 8, 0, 6, 4, 0, operation as u8];
        packet.extend_from_slice(&bytes[2..]);
        packet.resize(packet.len() + 12, 0);
        packet.truncate(cut);
        let theirs = etherparse::ArpPacketSlice::from_slice(&packet);
        match arp::parse(&packet) {
            Ok(ours) => {
                let theirs = theirs.unwrap();
                prop_assert_eq!(ours.operation, theirs.operation().0);
                prop_assert_eq!(&ours.sender_mac[..], theirs.sender_hw_addr());
                prop_assert_eq!(&ours.sender_ip[..], theirs.sender_protocol_addr());
                prop_assert_eq!(&ours.target_mac[..], theirs.target_hw_addr());
                prop_assert_eq!(&ours.target_ip[..], theirs.target_protocol_addr());
                let mut again = [0; arp::PACKET_LEN];
                prop_assert_eq!(arp::write(&mut again, &ours), Some(arp::PACKET_LEN));
                prop_assert_eq!(&again[..], &packet[..arp::PACKET_LEN]);
            }
            Err(_) => prop_assert!(theirs.is_err()),
        }
    }
}
