//! Numbers that judge rankings and scores. Nothing here knows a device.
//!
//! [`ranking`] compares a ranked list with relevance judgements: nDCG, MRR, accuracy, precision, recall and average
//! precision at a cut-off.

pub mod ranking;
