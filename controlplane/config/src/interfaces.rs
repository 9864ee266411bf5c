//! Interfaces in the order in which both daemons number them.

use crate::address::InterfaceAddress;
use crate::model::{Config, Port, Vlan};
use crate::value::{MacAddress, Name, TapName};
use turnpike_abi::{InterfaceId, PortId};

/// A place with addresses: the untagged interface of a port, or one of its VLANs.
#[derive(Clone, Debug, PartialEq)]
pub struct InterfaceSpec {
    /// Its index among all interfaces.
    pub id: InterfaceId,
    /// The port that carries it.
    pub port: PortId,
    /// VLAN id, 0 for the untagged interface.
    pub vlan: u16,
    /// Its name; the port's for the untagged interface.
    pub name: Name,
    /// Its zone; without one it forwards nothing.
    pub zone: Option<Name>,
    /// Addresses of the box.
    pub addresses: Vec<InterfaceAddress>,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Station address of the port, if it is not the device's own.
    pub mac: Option<MacAddress>,
    /// Name of its TAP twin.
    pub tap: TapName,
}

impl Config {
    /// Every interface, in the order of the ports: of each the untagged interface, if it has a zone or
    /// addresses, then its VLANs. The index of each is its id.
    #[must_use]
    pub fn interfaces(&self) -> Vec<InterfaceSpec> {
        let mut specs = Vec::new();
        for (index, port) in self.ports.iter().enumerate() {
            let port_id = PortId(index as u16);
            let untagged = port.has_untagged().then(|| untagged(port, port_id));
            specs.extend(untagged);
            specs.extend(port.vlans.iter().map(|vlan| tagged(port, port_id, vlan)));
        }
        for (index, spec) in specs.iter_mut().enumerate() {
            spec.id = InterfaceId(index as u16);
        }
        specs
    }
}

fn untagged(port: &Port, port_id: PortId) -> InterfaceSpec {
    InterfaceSpec {
        id: InterfaceId(0),
        port: port_id,
        vlan: 0,
        name: port.name.clone(),
        zone: port.zone.clone(),
        addresses: port.addresses.clone(),
        mtu: port.mtu,
        mac: port.mac,
        tap: port.tap.clone().unwrap_or(TapName::UNREAD),
    }
}

fn tagged(port: &Port, port_id: PortId, vlan: &Vlan) -> InterfaceSpec {
    InterfaceSpec {
        id: InterfaceId(0),
        port: port_id,
        vlan: vlan.id,
        name: vlan.name.clone(),
        zone: vlan.zone.clone(),
        addresses: vlan.addresses.clone(),
        mtu: vlan.mtu,
        mac: port.mac,
        tap: vlan.tap.clone(),
    }
}
