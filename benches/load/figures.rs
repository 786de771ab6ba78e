//! What is counted: latencies in a histogram, and for each subscriber which messages came, once, in order.
//!
//! In: nanoseconds; sequence numbers as they arrive. Out: quantiles and counts. Memory does not grow with the number
//! of messages that came as they should.

use std::collections::BTreeMap;

/// A log-linear histogram of nanoseconds: 64 steps for each power of two, so that a quantile is exact to 1.6 %.
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

const STEPS: u32 = 6;

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; (64 << STEPS) as usize], total: 0, max: 0 }
    }

    fn slot(value: u64) -> usize {
        let shift = (value | 1).ilog2().saturating_sub(STEPS);
        // Below 2^STEPS the slot is the value; above, the power of two and the STEPS bits after the leading one.
        (u64::from(shift) << STEPS) as usize + (value >> shift) as usize
    }

    fn upper(slot: usize) -> u64 {
        let shift = (slot >> STEPS).saturating_sub(1);
        let value = (slot - (shift << STEPS)) as u64;
        ((value + 1) << shift) - 1
    }

    pub(crate) fn record(&mut self, nanoseconds: u64) {
        if let Some(count) = self.counts.get_mut(Self::slot(nanoseconds)) {
            *count += 1;
        }
        self.total += 1;
        self.max = self.max.max(nanoseconds);
    }

    /// Takes in all that another one recorded.
    #[allow(dead_code, reason = "the load driver has one for each trial")]
    pub(crate) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// The value that the given part of all values does not exceed, in microseconds; 0 when there is none.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let wanted = ((self.total as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        for (slot, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Self::upper(slot).min(self.max) as f64 / 1e3;
            }
        }
        0.0
    }

    pub(crate) fn max(&self) -> f64 {
        self.max as f64 / 1e3
    }
}

/// The messages of one publisher as one subscriber sees them. Sequence numbers start at 0 and have no gaps.
#[derive(Default)]
pub(crate) struct Track {
    expected: u64,
    /// Ranges that were passed over: start and end (exclusive).
    missing: BTreeMap<u64, u64>,
    missing_count: u64,
    pub(crate) received: u64,
    pub(crate) duplicates: u64,
    pub(crate) reordered: u64,
}

impl Track {
    /// Takes note of a message. Answers by how many messages the run has come forward: those that came and those that
    /// were passed over, which will hardly come.
    pub(crate) fn take(&mut self, sequence: u64) -> u64 {
        if sequence >= self.expected {
            let gap = sequence - self.expected;
            if gap > 0 {
                self.missing.insert(self.expected, sequence);
                self.missing_count += gap;
            }
            self.expected = sequence + 1;
            self.received += 1;
            return gap + 1;
        }
        match self.missing.range(..=sequence).next_back().map(|(&start, &end)| (start, end)) {
            Some((start, end)) if sequence < end => {
                self.missing.remove(&start);
                if start < sequence {
                    self.missing.insert(start, sequence);
                }
                if sequence + 1 < end {
                    self.missing.insert(sequence + 1, end);
                }
                self.missing_count -= 1;
                self.received += 1;
                self.reordered += 1;
            }
            _ => self.duplicates += 1,
        }
        0
    }

    /// How many of the first `sent` messages never came.
    pub(crate) fn lost(&self, sent: u64) -> u64 {
        self.missing_count + sent.saturating_sub(self.expected)
    }
}

/// CPU seconds, and resident memory in bytes, of a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) cpu: f64,
    pub(crate) resident: u64,
}

impl Usage {
    /// Reads `/proc`. All zero when the process is gone.
    pub(crate) fn of(process: &str) -> Self {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // The second field is the name in parentheses, which may hold anything. utime and stime are fields 14 and 15
        // (proc(5)), in ticks of 1/100 s: USER_HZ is 100 on every Linux that Rust runs on, Alpha apart.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>());
        let ticks = |position: usize| -> f64 {
            fields.as_ref().and_then(|fields| fields.get(position)).and_then(|text| text.parse().ok()).unwrap_or(0.0)
        };
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().trim_end_matches(" kB").trim().parse::<u64>().ok())
            .unwrap_or(0);
        Self { cpu: (ticks(11) + ticks(12)) / 100.0, resident: resident * 1024 }
    }
}
