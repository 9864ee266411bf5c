//! The end of a binding, and of the flows before it.

use super::{Binding, Bindings, Entries, ExternalKey};
use crate::flows::Flows;
use crate::ports::{Class, Place};
use turnpike_abi::Address;
use turnpike_abi::command::Kind;
use turnpike_abi::counters::Counters;
use turnpike_abi::event::BindingRow;
use turnpike_abi::flow::NONE;
use turnpike_shm::memory::prefetch_value;

impl Bindings {
    /// Counts a flow out. To be told before the binding is removed; its remote end and whether that opened it only
    /// if [`Bindings::asks_for_remotes`].
    pub(crate) fn flow_ended(&mut self, number: u32, remote: Option<((Address, u16), bool)>) {
        let Some(&Binding { subscriber, pool, .. }) = self.record(number) else { return };
        if pool != BindingRow::NO_POOL {
            self.ports.count_flow(subscriber, false);
        }
        let Some((remote, inbound)) = remote else { return };
        let pinhole = self.pinhole_of(number);
        if pinhole != NONE {
            self.count_in_pinhole(pinhole, remote, inbound, false);
        }
        if pool != BindingRow::NO_POOL
            && !inbound
            && let (Some(contacts), Some(to)) = (&mut self.contacts, remote.0.to_v4())
        {
            contacts.remove(number, to);
        }
    }

    /// First of three steps, over several bindings, that bring the lines near which their end will need.
    pub(crate) fn prefetch_record(&self, number: u32) {
        if let Some(record) = self.slab.get(number as usize) {
            prefetch_value(record);
        }
    }

    /// Where a binding is filed, and where its port is to be given back. Second step: asks for the lines where that
    /// is; the third is [`Ports::prefetch_unit`].
    pub(crate) fn leaving(&self, flows: &Flows, number: u32) -> Option<(Entries, Option<Place>)> {
        let binding = self.record(number)?;
        let entries = Entries::of(self, flows, binding);
        self.by_inside.prefetch(entries.hash);
        if let Some(by_source) = entries.by_source {
            flows.prefetch_index(by_source);
        }
        let class = Class::of(binding.class()).filter(|_| binding.has_own_port());
        let place = class.and_then(|class| {
            let place = self.ports.place(binding.external, class, binding.external_port)?;
            self.ports.prefetch_place(&place);
            Some(place)
        });
        Some((entries, place))
    }

    /// Whether the end of a binding's flow is to be told with its remote end: [`Bindings::flow_ended`].
    pub(crate) fn asks_for_remotes(&self, number: u32) -> bool {
        self.contacts.is_some() || self.record(number).is_some_and(|record| record.has(Binding::PINNED))
    }

    /// Whether a binding has several flows. If not, its only one is in no list.
    pub(crate) fn is_shared(&self, number: u32) -> bool {
        self.record(number).is_some_and(|record| record.has(Binding::SHARED))
    }

    /// Removes a binding and frees its port. The caller has ended its flows and its pinholes.
    pub(crate) fn remove(&mut self, flows: &mut Flows, number: u32, counters: &mut Counters) {
        if let Some((entries, place)) = self.leaving(flows, number) {
            self.remove_from(flows, (number, &entries, place.as_ref()), counters);
        }
    }

    /// As [`Bindings::remove`], for a caller who knows where the binding lies.
    pub(crate) fn remove_from(
        &mut self,
        flows: &mut Flows,
        (number, entries, place): (u32, &Entries, Option<&Place>),
        counters: &mut Counters,
    ) {
        let Some(&binding) = self.record(number) else { return };
        self.take_off(flows, number, entries);
        if let Some(record) = self.record_mut(number) {
            record.flags = 0;
        }
        self.free.push(number);
        if binding.pool == BindingRow::NO_POOL {
            self.forget_host(binding.subscriber);
            return;
        }
        counters.binding_ended(binding.class(), binding.pool.index());
        let class = Class::of(binding.class());
        if binding.has(Binding::LOGGED) {
            self.log(Kind::PORTS_RELEASED, &binding);
        }
        if binding.has(Binding::LEASED) || class.is_none() {
            let port = binding.external_port;
            self.portless.remove(&ExternalKey {
                address: binding.external(),
                port,
                protocol: binding.protocol,
            });
        }
        match class {
            Some(class) if binding.has(Binding::LEASED) => self.ports.detach(binding.subscriber, class),
            Some(class) => self.ports.release_at(binding.subscriber, class, place),
            None => {}
        }
    }
}
