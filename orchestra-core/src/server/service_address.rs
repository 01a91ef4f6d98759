//! Addresses and ports of Services: each is claimed by a key of its own, in the transaction that writes the Service, so
//! that no two ever share one.

use std::{
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
};

use bytes::Bytes;
use serde_json::Value;

use crate::{
    api::{
        service::has_node_ports,
        validation::{FieldError, Path},
    },
    server::{
        Inner,
        error::{Failure, Result},
        object::{Object, meta},
        registry::Kind,
    },
    store::{Check, Key, Op, Txn},
};

/// How many free addresses are looked for before the range counts as full.
const TRIES: usize = 64;

/// Where the addresses and node ports of Services come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressRanges {
    /// The network of the cluster addresses.
    pub network: Ipv4Addr,
    /// The length of the network's prefix, in bits.
    pub prefix_bits: u8,
    /// The node ports.
    pub node_ports: RangeInclusive<u16>,
}

impl Default for AddressRanges {
    /// 127.96.0.0/16, which every Linux machine can serve without root, and Kubernetes' own node ports.
    fn default() -> Self {
        Self { network: Ipv4Addr::new(127, 96, 0, 0), prefix_bits: 16, node_ports: 30_000..=32_767 }
    }
}

impl AddressRanges {
    /// The address of the `kubernetes` Service: the first of the network.
    #[must_use]
    pub fn first_address(&self) -> Ipv4Addr {
        self.at(1)
    }

    fn hosts(&self) -> u32 {
        // Without the network's own address and the broadcast address.
        (1_u32 << (32 - u32::from(self.prefix_bits.clamp(1, 30)))) - 2
    }

    fn at(&self, host: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + host)
    }

    /// What of a Service lies outside.
    fn check(&self, service: &Object) -> Vec<FieldError> {
        let path = Path::root("spec");
        let mut errors = Vec::new();
        let address = address_of(service);
        if let Some(address) = address.filter(|text| !text.parse().is_ok_and(|address| self.contains(address))) {
            let detail = format!(
                "failed to allocate IP {address}: the provided IP ({address}) is not in the valid range. The range of valid \
                 IPs is {}/{}",
                self.network, self.prefix_bits
            );
            errors.push(FieldError::invalid(&path.field("clusterIPs"), [address], detail));
        }
        for (index, port) in node_ports(service) {
            if !u16::try_from(port).is_ok_and(|port| self.node_ports.contains(&port)) {
                let (first, last) = (self.node_ports.start(), self.node_ports.end());
                let detail =
                    format!("provided port is not in the valid range. The range of valid ports is {first}-{last}");
                errors.push(FieldError::invalid(&path.field("ports").index(index).field("nodePort"), port, detail));
            }
        }
        errors
    }

    fn contains(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address else { return false };
        u32::from(address).checked_sub(u32::from(self.network)).is_some_and(|host| (1..=self.hosts()).contains(&host))
    }
}

impl Inner {
    /// Gives a Service that is being written the addresses it lacks, and takes back those it gives up.
    pub(super) async fn claim_addresses(
        &self,
        kind: &Kind,
        new: &mut Object,
        old: Option<&Object>,
        txn: &mut Txn,
    ) -> Result<()> {
        if kind.kind != "Service" {
            return Ok(());
        }
        let name = meta(new, "name").to_owned();
        let owner = format!("{}/{name}", meta(new, "namespace"));
        let held = old.map(claims).unwrap_or_default();
        let errors = self.ranges.check(new);
        if !errors.is_empty() {
            return Err(Failure::invalid(kind, &name, &errors));
        }
        self.fill_cluster_address(new).await?;
        self.fill_node_ports(new).await?;
        let wanted = claims(new);
        let (taken, given_up) = (difference(&wanted, &held), difference(&held, &wanted));
        for claim in &taken {
            let key = claim_key(claim)?;
            if self.store.get(&key).await?.is_some() {
                return Err(Failure::invalid(kind, &name, &[taken_by_another(new, claim)]));
            }
            txn.checks.push(Check::Absent(key.clone()));
            txn.ops.push(Op::Put(key, Bytes::from(owner.clone())));
        }
        for claim in &given_up {
            self.release(claim, txn).await?;
        }
        Ok(())
    }

    /// Takes back the addresses of a Service that goes.
    pub(super) async fn release_addresses(&self, kind: &Kind, old: &Object, txn: &mut Txn) -> Result<()> {
        if kind.kind == "Service" {
            for claim in claims(old) {
                self.release(&claim, txn).await?;
            }
        }
        Ok(())
    }

    async fn release(&self, claim: &str, txn: &mut Txn) -> Result<()> {
        let key = claim_key(claim)?;
        if let Some(entry) = self.store.get(&key).await? {
            txn.checks.push(Check::Unchanged(key.clone(), entry.modified));
            txn.ops.push(Op::Delete(key));
        }
        Ok(())
    }

    async fn fill_cluster_address(&self, service: &mut Object) -> Result<()> {
        let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
        let text = |field: &str| spec.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        if text("type") == "ExternalName" {
            return Ok(());
        }
        let mut address = text("clusterIP");
        if address.is_empty() {
            address = self.free_address().await?.to_string();
        }
        spec.insert("clusterIP".into(), address.as_str().into());
        spec.insert("clusterIPs".into(), vec![address].into());
        Ok(())
    }

    async fn free_address(&self) -> Result<Ipv4Addr> {
        for _ in 0..TRIES {
            let host =
                u32::try_from(self.entropy.next_u64() % u64::from(self.ranges.hosts())).expect("below a u32") + 1;
            let address = self.ranges.at(host);
            if self.store.get(&claim_key(&format!("clusterIP/{address}"))?).await?.is_none() {
                return Ok(address);
            }
        }
        Err(Failure::internal("failed to allocate a serviceIP: range is full"))
    }

    async fn fill_node_ports(&self, service: &mut Object) -> Result<()> {
        let Some(spec) = service.get_mut("spec") else { return Ok(()) };
        if !serde_json::from_value(spec.clone()).is_ok_and(|spec| has_node_ports(&spec)) {
            return Ok(());
        }
        let mut drawn = Vec::new();
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if port.get("nodePort").and_then(Value::as_u64).unwrap_or(0) == 0 {
                let free = self.free_port(&drawn).await?;
                drawn.push(free);
                port["nodePort"] = free.into();
            }
        }
        Ok(())
    }

    async fn free_port(&self, drawn: &[u16]) -> Result<u16> {
        let (first, last) = (*self.ranges.node_ports.start(), *self.ranges.node_ports.end());
        for _ in 0..TRIES {
            let offset = self.entropy.next_u64() % (u64::from(last - first) + 1);
            let port = first + u16::try_from(offset).expect("within the range");
            if !drawn.contains(&port) && self.store.get(&claim_key(&format!("nodePort/{port}"))?).await?.is_none() {
                return Ok(port);
            }
        }
        Err(Failure::internal("failed to allocate a nodePort: range is full"))
    }
}

/// What a Service holds: `clusterIP/127.96.0.7`, `nodePort/30080`.
fn claims(service: &Object) -> Vec<String> {
    let mut claims: Vec<_> = node_ports(service).map(|(_, port)| format!("nodePort/{port}")).collect();
    claims.extend(address_of(service).map(|address| format!("clusterIP/{address}")));
    claims.sort();
    claims.dedup();
    claims
}

fn address_of(service: &Object) -> Option<&str> {
    let address = service.get("spec")?.get("clusterIP")?.as_str()?;
    (!matches!(address, "" | "None")).then_some(address)
}

/// The node ports of a Service, each with the index of its port.
fn node_ports(service: &Object) -> impl Iterator<Item = (usize, u64)> {
    let ports = service.get("spec").and_then(|spec| spec.get("ports")).and_then(Value::as_array);
    let ports = ports.into_iter().flatten().enumerate();
    ports.filter_map(|(index, port)| Some((index, port.get("nodePort")?.as_u64().filter(|port| *port != 0)?)))
}

fn taken_by_another(service: &Object, claim: &str) -> FieldError {
    let path = Path::root("spec");
    let ported = |(_, port): &(usize, u64)| format!("nodePort/{port}") == claim;
    match node_ports(service).find(ported) {
        Some((index, port)) => {
            let path = path.field("ports");
            FieldError::invalid(&path.index(index).field("nodePort"), port, "provided port is already allocated")
        }
        None => {
            let address = address_of(service).unwrap_or_default();
            let detail = format!("failed to allocate IP {address}: provided IP is already allocated");
            FieldError::invalid(&path.field("clusterIPs"), [address], detail)
        }
    }
}

/// What is in `these` but not in `those`.
fn difference(these: &[String], those: &[String]) -> Vec<String> {
    these.iter().filter(|claim| !those.contains(claim)).cloned().collect()
}

fn claim_key(claim: &str) -> Result<Key> {
    Ok(Key::new(["claims", "services"].into_iter().chain(claim.split('/')))?)
}
