//! Planned scheduling: borders, sizes and caps of a round's micro-batches that minimise the
//! expected time under the predicted distributions and the step-time model, by dynamic
//! programming over the requests sorted by what is left of them. What a cap leaves unfinished is
//! charged what it will cost in later rounds.

use super::{Forecast, MicroBatch, ScheduleOptions, StepCost, rounds::Waiting};

/// Share of the rows' steps that later rounds are assumed to spend on unfinished rows.
const LATER_USE: f64 = 0.85;
/// Borders are looked for at so many places of the largest batch.
const PLACES: usize = 32;

/// Cuts everything that waits into micro-batches.
pub(super) fn round(
    waiting: &[Waiting],
    forecasts: &[Forecast],
    options: &ScheduleOptions,
) -> Vec<MicroBatch> {
    if waiting.is_empty() {
        return Vec::new();
    }
    let mut sorted: Vec<(f64, Waiting)> = waiting
        .iter()
        .map(|w| (forecasts[w.request].remaining(w.done, 0.5), *w))
        .collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let sorted: Vec<Waiting> = sorted.into_iter().map(|(_, w)| w).collect();
    let grid = grid(options);
    // Within a memory budget every request counts by itself.
    let unit = match options.kv_tokens {
        0 => options.row_limit().div_ceil(PLACES).max(1),
        _ => 1,
    };
    let later = later(&options.step_cost, options.row_limit());
    let blocks: Vec<Block> = sorted
        .chunks(unit)
        .map(|members| Block::of(members, forecasts, &grid))
        .collect();
    // best[j]: the least expected seconds of the first j blocks, and how the last batch of
    // these is cut.
    let mut best = vec![(f64::INFINITY, 0, 0); blocks.len() + 1];
    best[0].0 = 0.0;
    for begin in 0..blocks.len() {
        let mut batch = Block::none(grid.len());
        for end in begin + 1..=blocks.len() {
            batch.add(&blocks[end - 1]);
            let within = batch.rows <= options.row_limit() && batch.fits(options, grid[1]);
            if !within && end > begin + 1 {
                break;
            }
            for place in 1..grid.len() {
                if place > 1 && !batch.fits(options, grid[place]) {
                    break;
                }
                let cost = batch.seconds(place, &grid, options, later);
                if best[begin].0 + cost < best[end].0 {
                    best[end] = (best[begin].0 + cost, begin, place);
                }
            }
        }
    }
    let mut batches = Vec::new();
    let mut end = blocks.len();
    while end > 0 {
        let (_, begin, place) = best[end];
        let members = &sorted[begin * unit..(end * unit).min(sorted.len())];
        batches.push(MicroBatch {
            members: members.iter().map(|w| w.request).collect(),
            cap: grid[place] as usize,
            keeps: true,
        });
        end = begin;
    }
    batches.reverse();
    batches
}

/// Steps at which a batch may be stopped, 0 first: finer where it is short.
fn grid(options: &ScheduleOptions) -> Vec<f64> {
    let most = options.max_new_tokens.max(1);
    let least = options.stage_steps.clamp(1, most);
    let mut steps = vec![0, least];
    let mut power = least;
    while steps[steps.len() - 1] < most {
        for step in [power + power / 2, 2 * power] {
            if step > steps[steps.len() - 1] {
                steps.push(step.min(most));
            }
        }
        power *= 2;
    }
    steps.dedup();
    steps.into_iter().map(|s| s as f64).collect()
}

/// Seconds of a token in later rounds.
fn later(cost: &StepCost, rows: usize) -> f64 {
    (cost.t0 / rows.max(1) as f64 + cost.t1) / LATER_USE
}

/// Some requests together, at each place of the grid.
struct Block {
    rows: usize,
    /// Positions of all rows.
    context: f64,
    /// The logarithm of the probability that all have ended.
    all_ended: Vec<f64>,
    /// The expected number that have not.
    left: Vec<f64>,
    /// The tokens that these still need, expected.
    tokens_left: Vec<f64>,
}

impl Block {
    fn none(places: usize) -> Block {
        Block {
            rows: 0,
            context: 0.0,
            all_ended: vec![0.0; places],
            left: vec![0.0; places],
            tokens_left: vec![0.0; places],
        }
    }

    fn of(members: &[Waiting], forecasts: &[Forecast], grid: &[f64]) -> Block {
        let mut block = Block::none(grid.len());
        for w in members {
            let forecast = &forecasts[w.request];
            let done = w.done as f64;
            let now = forecast.exceeds(done).max(1e-9);
            let left: Vec<f64> = grid
                .iter()
                .map(|steps| (forecast.exceeds(done + steps) / now).clamp(0.0, 1.0))
                .collect();
            let mut tokens = 0.0;
            for place in (0..grid.len()).rev() {
                if place + 1 < grid.len() {
                    let mean = f64::midpoint(left[place], left[place + 1]);
                    tokens += (grid[place + 1] - grid[place]) * mean;
                }
                block.tokens_left[place] += tokens;
                block.left[place] += left[place];
                block.all_ended[place] += (1.0 - left[place]).max(1e-12).ln();
            }
            block.rows += 1;
            block.context += (forecast.prompt_tokens + w.done) as f64;
        }
        block
    }

    fn add(&mut self, other: &Block) {
        let sum = |to: &mut [f64], from: &[f64]| {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        };
        self.rows += other.rows;
        self.context += other.context;
        sum(&mut self.all_ended, &other.all_ended);
        sum(&mut self.left, &other.left);
        sum(&mut self.tokens_left, &other.tokens_left);
    }

    /// Whether keys and values stay within the budget for so many steps.
    fn fits(&self, options: &ScheduleOptions, steps: f64) -> bool {
        options.kv_tokens == 0
            || self.context + self.rows as f64 * steps <= options.kv_tokens as f64
    }

    /// Expected seconds, now and later, if the batch is stopped at `place` of the grid.
    fn seconds(&self, place: usize, grid: &[f64], options: &ScheduleOptions, later: f64) -> f64 {
        let cost = &options.step_cost;
        // The batch runs on as long as one of its rows does.
        let runs = |k: usize| 1.0 - self.all_ended[k].exp();
        let steps: f64 = (0..place)
            .map(|k| (grid[k + 1] - grid[k]) * (runs(k) + runs(k + 1)) / 2.0)
            .sum();
        let rows = self.rows as f64;
        let positions = steps * (self.context + rows * steps / 2.0);
        let now = steps * (cost.t0 + cost.t1 * rows) + cost.t2 * positions;
        // One that goes on is in a batch again that ends half a stage after it does.
        let ends = options.stage_steps as f64 / 2.0;
        now + cost.batch + later * (self.tokens_left[place] + ends * self.left[place])
    }
}
