//! The nodes of a cluster in blocks, alike ones together, and blocks of blocks: what is passed over in few looks.

use std::{collections::BTreeMap, ops::Range};

use super::{
    super::{NodeId, NodeView, Trial},
    block::{Block, Gauge, LANES, POINT_BITS, Size},
};

/// How many binary digits of a node's cpu and memory decide of what size it is: nodes of one size differ by less than 1 %.
const SIZE_BITS: u32 = 8;

/// Nodes for one group on average, at least: more sizes would leave most lanes empty.
const GROUP_NODES_MIN: usize = 32;

/// Nodes are alike if what is left of each resource is within as many hundredths, as a power of two.
const ALIKE_BITS: u32 = POINT_BITS - 1;

/// The number of nobody.
const NOBODY: u32 = u32::MAX;

/// The least number of changes that are worth forgetting.
const RECENT_LEN_MIN: usize = 1 << 14;

/// All nodes, in groups by size.
#[derive(Debug)]
pub(super) struct Groups {
    groups: Vec<Group>,
    /// In which group each node is, in which of its tiers, and in which lane.
    seats: Vec<[u32; 3]>,
    /// The nodes that have changed since they were given their seats, and for each node whether it is one of them.
    stale: Vec<u32>,
    gauges: Vec<(Gauge, bool)>,
}

/// Nodes of about one size.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) size: Size,
    /// Blocks of nodes that are alike.
    tiers: Vec<Tier>,
    /// Blocks whose lanes are the tiers, in their order.
    over: Vec<Tier>,
    /// By what their nodes have left, the tiers that are neither empty nor full.
    by_left: BTreeMap<[i16; 2], Vec<u32>>,
    /// The tiers that are empty.
    vacant: Vec<u32>,
    recent: Recent,
}

/// The changes of a group's nodes: each lane is a node as it was then.
#[derive(Debug, Default)]
pub(super) struct Recent {
    tiers: Vec<Tier>,
    /// How many older ones there were.
    forgotten: u64,
}

/// A block, and who is first in each lane: the node itself, or the first of a set.
#[derive(Debug)]
pub(super) struct Tier {
    pub(super) block: Block,
    firsts: [u32; LANES],
    /// How many lanes have anybody: those come first.
    len: usize,
}

impl Groups {
    /// The groups of a trial's nodes; `None` if the nodes are of too many sizes.
    pub(super) fn of(trial: &Trial<'_>) -> Option<Self> {
        let all = || trial.snapshot().node_ids().map(|id| (id, trial.node(id)));
        let key = |node: &NodeView| [about(node.allocatable.cpu), about(node.allocatable.memory)];
        let mut sizes: BTreeMap<[i64; 2], Size> = BTreeMap::new();
        for (_, node) in all() {
            let size = Size::of(&node.allocatable);
            sizes.entry(key(node)).and_modify(|all| *all = all.with(size)).or_insert(size);
        }
        let nodes = trial.snapshot().nodes().len();
        if sizes.len() > 1 && sizes.len() * GROUP_NODES_MIN > nodes {
            return None;
        }
        let groups: BTreeMap<[i64; 2], u32> = sizes.keys().copied().zip(0..).collect();
        let mut grouped = Self {
            groups: sizes.into_values().map(Group::new).collect(),
            seats: Vec::with_capacity(nodes),
            stale: Vec::new(),
            gauges: Vec::with_capacity(nodes),
        };
        for (id, node) in all() {
            let (group, gauge) = (groups.get(&key(node)).copied()?, Gauge::of(node));
            let [tier, lane] = grouped.groups.get_mut(group as usize)?.add(id.0, gauge);
            grouped.seats.push([group, tier, lane]);
            grouped.gauges.push((gauge, false));
        }
        Some(grouped)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter()
    }

    /// Notes what is on a node by now.
    pub(super) fn note(&mut self, id: NodeId, node: &NodeView) {
        let Self { groups, seats, stale, gauges } = self;
        let (at, gauge) = (id.0 as usize, Gauge::of(node));
        let group = seats.get(at).and_then(|[group, ..]| groups.get_mut(*group as usize));
        let (Some(group), Some(own)) = (group, gauges.get_mut(at)) else { return };
        group.recent.push(id.0, gauge, RECENT_LEN_MIN.max(4 * seats.len()));
        if !own.1 {
            stale.push(id.0);
        }
        *own = (gauge, true);
    }

    /// How many nodes have changed since they were given their seats.
    pub(super) fn unsettled(&self) -> u64 {
        self.stale.len() as u64
    }

    /// Puts every node that has changed to those that it is like now.
    pub(super) fn settle(&mut self) {
        while let Some(id) = self.stale.pop() {
            let Self { groups, seats, gauges, .. } = self;
            let (Some(seat), Some(own)) = (seats.get(id as usize).copied(), gauges.get_mut(id as usize)) else {
                continue;
            };
            let ([at, tier, lane], gauge) = (seat, own.0);
            own.1 = false;
            let Some(group) = groups.get_mut(at as usize) else { continue };
            if group.keep([tier, lane], gauge) {
                continue;
            }
            let moved = group.take([tier, lane]);
            if let Some(seat) = moved.and_then(|moved| seats.get_mut(moved as usize)) {
                *seat = [at, tier, lane];
            }
            let [tier, lane] = group.add(id, gauge);
            seats.get_mut(id as usize).into_iter().for_each(|seat| *seat = [at, tier, lane]);
        }
    }
}

impl Recent {
    /// How many changes there have been.
    pub(super) fn end(&self) -> u64 {
        self.forgotten + self.len() as u64
    }

    fn len(&self) -> usize {
        self.tiers.last().map_or(0, |last| (self.tiers.len() - 1) * LANES + last.len)
    }

    /// The changes after so many, each tier with its lanes that are; `None` if they are forgotten.
    pub(super) fn since(&self, seen: u64) -> Option<impl Iterator<Item = (&Tier, Range<usize>)>> {
        let skipped = usize::try_from(seen.checked_sub(self.forgotten)?).ok()?;
        let tiers = self.tiers.iter().skip(skipped / LANES).enumerate();
        Some(tiers.map(move |(at, tier)| (tier, if at == 0 { skipped % LANES..tier.len } else { 0..tier.len })))
    }

    fn push(&mut self, id: u32, gauge: Gauge, len_max: usize) {
        if self.tiers.last().is_none_or(|tier| tier.len == LANES) {
            if self.tiers.len() * LANES >= len_max {
                let older = self.tiers.len() / 2;
                self.tiers.drain(..older);
                self.forgotten += (older * LANES) as u64;
            }
            self.tiers.push(Tier::empty());
        }
        if let Some(last) = self.tiers.last_mut() {
            last.push(id, gauge);
        }
    }
}

impl Group {
    fn new(size: Size) -> Self {
        let (tiers, over, vacant) = (Vec::new(), Vec::new(), Vec::new());
        Self { size, tiers, over, by_left: BTreeMap::new(), vacant, recent: Recent::default() }
    }

    pub(super) fn recent(&self) -> &Recent {
        &self.recent
    }

    /// All tiers of nodes.
    pub(super) fn all(&self) -> &[Tier] {
        &self.tiers
    }

    /// The blocks whose lanes are tiers.
    pub(super) fn over(&self) -> &[Tier] {
        &self.over
    }

    /// The tiers of nodes that are lanes of one of those.
    pub(super) fn tiers(&self, over: usize) -> &[Tier] {
        let end = self.tiers.len().min((over + 1) * LANES);
        self.tiers.get(over * LANES..end).unwrap_or_default()
    }

    /// Adds a node to those that it is like; tells the tier and the lane.
    fn add(&mut self, id: u32, gauge: Gauge) -> [u32; 2] {
        let with_room = self.by_left.entry(key(gauge)).or_default();
        let at = with_room.last().copied().unwrap_or_else(|| {
            let at = self.vacant.pop().unwrap_or_else(|| {
                self.tiers.push(Tier::empty());
                u32::try_from(self.tiers.len() - 1).expect("there are no more tiers than nodes")
            });
            with_room.push(at);
            at
        });
        let Some(tier) = self.tiers.get_mut(at as usize) else { return [0; 2] };
        let lane = tier.push(id, gauge);
        if tier.len == LANES {
            with_room.pop();
        }
        self.sum_up(at);
        [at, lane]
    }

    /// Notes what is on a node by now, if it stays where it is.
    fn keep(&mut self, [at, lane]: [u32; 2], gauge: Gauge) -> bool {
        let Some(tier) = self.tiers.get_mut(at as usize) else { return false };
        let stays = key(tier.block.gauge(lane as usize)) == key(gauge);
        if stays {
            tier.block.set(lane as usize, gauge);
            self.sum_up(at);
        }
        stays
    }

    /// Takes a node out; tells the one that has its lane now.
    fn take(&mut self, [at, lane]: [u32; 2]) -> Option<u32> {
        let tier = self.tiers.get_mut(at as usize)?;
        let key = key(tier.block.gauge(lane as usize));
        let moved = tier.take(lane as usize);
        let with_room = self.by_left.entry(key).or_default();
        match tier.len {
            0 => {
                with_room.retain(|other| *other != at);
                self.vacant.push(at);
            }
            len if len + 1 == LANES => with_room.push(at),
            _ => {}
        }
        if with_room.is_empty() {
            self.by_left.remove(&key);
        }
        self.sum_up(at);
        moved
    }

    fn sum_up(&mut self, at: u32) {
        let (over, lane) = (at as usize / LANES, at as usize % LANES);
        if self.over.len() <= over {
            self.over.push(Tier::empty());
        }
        if let (Some(over), Some(tier)) = (self.over.get_mut(over), self.tiers.get(at as usize)) {
            over.block.set(lane, tier.block.summary());
            over.firsts[lane] = tier.firsts.iter().copied().fold(NOBODY, u32::min);
            over.len = over.len.max(lane + 1);
        }
    }
}

impl Tier {
    fn empty() -> Self {
        Self { block: Block::empty(), firsts: [NOBODY; LANES], len: 0 }
    }

    /// How many lanes have anybody.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Who is first in each lane.
    pub(super) fn firsts(&self) -> &[u32; LANES] {
        &self.firsts
    }

    fn push(&mut self, id: u32, gauge: Gauge) -> u32 {
        let lane = self.len;
        self.block.set(lane, gauge);
        self.firsts[lane] = id;
        self.len += 1;
        lane as u32
    }

    /// Empties a lane, and puts the last one there; tells who that is, if it is another.
    fn take(&mut self, lane: usize) -> Option<u32> {
        self.len -= 1;
        let (last, moved) = (self.len, self.firsts[self.len]);
        self.block.set(lane, self.block.gauge(last));
        self.block.set(last, Gauge::NOBODY);
        self.firsts[lane] = moved;
        self.firsts[last] = NOBODY;
        (lane != last).then_some(moved)
    }
}

/// What nodes that are alike share.
fn key(gauge: Gauge) -> [i16; 2] {
    gauge.left().map(|left| left >> ALIKE_BITS)
}

/// An amount to so many binary digits.
fn about(amount: i64) -> i64 {
    let digits = i64::BITS - amount.max(0).leading_zeros();
    if amount > 0 { amount >> digits.saturating_sub(SIZE_BITS) << digits.saturating_sub(SIZE_BITS) } else { 0 }
}
