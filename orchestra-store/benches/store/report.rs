//! One line of a table for each figure, and one of JSON for machines.

use std::{
    env,
    fs::{File, OpenOptions},
    io::{self, Write as _},
};

use crate::measure::{Pairs, Sizes};

/// Names the file that figures are appended to.
const OUT_VARIABLE: &str = "ORCHESTRA_BENCH_OUT";

/// Whether a larger figure is a better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    More,
    Less,
}

/// Where figures go.
pub(crate) struct Report {
    out: Option<File>,
}

impl Report {
    pub(crate) fn new(sizes: Sizes) -> io::Result<Self> {
        let open = |path| OpenOptions::new().create(true).append(true).open(path);
        let out = env::var_os(OUT_VARIABLE).filter(|_| sizes.is_full()).map(open).transpose()?;
        println!("{:<44} {:>12} {:>12}  {:<6} {:>8}  range", "", "durable", "etcd", "unit", "better");
        Ok(Self { out })
    }

    /// Tells one figure of both sides: the medians, and by how many times ours is the better one. If one was lost in the
    /// noise, that, and no ratio.
    pub(crate) fn tell(
        &mut self,
        metric: &str,
        unit: &str,
        better: Better,
        [ours, peer]: [&[f64]; 2],
    ) -> io::Result<()> {
        let ratio = |(ours, peer): (&f64, &f64)| match better {
            Better::More => ours / peer,
            Better::Less => peer / ours,
        };
        if ours.iter().chain(peer).any(|figure| *figure <= 0.0) {
            let (ours, peer) = (short(median(ours)), short(median(peer)));
            println!("{metric:<44} {ours:>12} {peer:>12}  {unit:<6} {:>8}  too little to measure", "-");
            return Ok(());
        }
        let ratios: Vec<f64> = ours.iter().zip(peer).map(ratio).collect();
        let (ours, peer, ratio) = (median(ours), median(peer), median(&ratios));
        let range =
            ratios.iter().fold((f64::INFINITY, 0.0_f64), |(low, high), ratio| (low.min(*ratio), high.max(*ratio)));
        println!(
            "{metric:<44} {:>12} {:>12}  {unit:<6} {ratio:>7.1}x  {:.1}-{:.1}",
            short(ours),
            short(peer),
            range.0,
            range.1
        );
        if let Some(out) = &mut self.out {
            writeln!(
                out,
                r#"{{"bench":"store","metric":"{metric}","value":{ours},"unit":"{unit}","peer":"etcd","peer_value":{peer},"ratio":{ratio}}}"#
            )?;
        }
        Ok(())
    }

    /// Tells the figure of the number `index` of each pair.
    pub(crate) fn tell_pairs(
        &mut self,
        metric: &str,
        unit: &str,
        better: Better,
        pairs: &Pairs,
        index: usize,
    ) -> io::Result<()> {
        self.tell(metric, unit, better, [&pairs[0][index], &pairs[1][index]])
    }
}

/// The middle one.
fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Three digits that matter.
fn short(number: f64) -> String {
    match number.abs() {
        0.0..10.0 => format!("{number:.2}"),
        10.0..100.0 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}
