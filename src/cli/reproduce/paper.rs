//! The numbers of arXiv 2305.13144 and of its reference code's README, as far as they are known.

use serde::Serialize;

/// What is said of an arm.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct PaperArm {
    pub arm: &'static str,
    /// Samples per second.
    pub throughput_samples_per_s: Option<f64>,
    /// Over vanilla, percent.
    pub improvement_pct: Option<f64>,
    pub average_length: Option<f64>,
    /// Shares.
    pub effective_token_ratio: Option<f64>,
    pub failure_ratio: Option<f64>,
}

const fn arm(arm: &'static str, rate: f64, gain: Option<f64>, length: f64) -> PaperArm {
    PaperArm {
        arm,
        throughput_samples_per_s: Some(rate),
        improvement_pct: gain,
        average_length: Some(length),
        effective_token_ratio: None,
        failure_ratio: None,
    }
}

/// Table 4: Vicuna-7B, predictors with binning, FCR and VBS.
pub const TABLE4: &[PaperArm] = &[
    arm("vanilla", 1.22, None, 377.0),
    arm("ground truth", 2.52, Some(107.0), 201.0),
    arm("pooling + MLP", 1.96, Some(61.0), 216.0),
    arm("[LEN]-token", 2.10, Some(72.0), 210.0),
    arm("instruction tuning, max", 2.27, Some(86.0), 208.0),
];

/// Table 5: Vicuna-7B tuned on the max label; vanilla is Table 4's.
pub const TABLE5: &[PaperArm] = &[
    arm("vanilla", 1.22, None, 377.0),
    arm("sorted", 1.73, Some(42.0), 271.0),
    arm("FCR", 1.76, Some(44.0), 222.0),
    arm("FCR + VBS", 2.22, Some(82.0), 209.0),
    arm("binning", 1.58, Some(30.0), 300.0),
    arm("binning + FCR", 1.86, Some(52.0), 209.0),
    arm("binning + FCR + VBS", 2.27, Some(86.0), 203.0),
];

/// The reference code's README, 1,024 prompts.
pub const README: &[PaperArm] = &[
    PaperArm {
        effective_token_ratio: Some(0.3391),
        ..arm("vanilla", 1.39, None, 370.84)
    },
    PaperArm {
        effective_token_ratio: Some(0.4722),
        failure_ratio: Some(0.165),
        ..arm("VBS + FCR", 2.30, Some(65.0), 215.06)
    },
    PaperArm {
        effective_token_ratio: Some(0.4217),
        ..arm("sorting only", 1.64, Some(18.0), 297.48)
    },
    PaperArm {
        effective_token_ratio: Some(0.6157),
        ..arm("ground truth + VBS + FCR", 2.69, Some(94.0), 196.34)
    },
];

/// Figure 3a, read by eye: rows, samples per second run to 512 tokens, and run until all have
/// ended.
pub const BATCH_SIZES: [(f64, f64, f64); 7] = [
    (1.0, 0.06, 0.25),
    (2.0, 0.12, 0.33),
    (4.0, 0.24, 0.49),
    (8.0, 0.30, 0.66),
    (16.0, 0.50, 0.94),
    (32.0, 0.57, 0.93),
    (64.0, 0.62, 0.65),
];

/// Figure 3b, read by eye: position, seconds of a step of 16 rows.
pub const STEP_TIMES: [(f64, f64); 2] = [(0.0, 0.069), (510.0, 0.0855)];
