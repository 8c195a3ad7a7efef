//! Where the weights of `f4` are, and their names.

use super::{INNER, PATCH, PLACES};
use crate::model::weights::{Builder, Group, Linear, Matrix, Norm, Vector};
use crate::verifier::layers::SCORES;
use crate::verifier::parameters::{Part, Start, Stored};

/// Columns behind the value weights: the bias, which the total weight of an attention is multiplied with, and zeros.
pub(super) const BEHIND: usize = 8;

/// The tensors of `f4` at a width.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub d: usize,
    /// Of the patch embedding, `[d, 192]`.
    pub patch: Matrix,
    /// `[257, d]`.
    pub positions: Matrix,
    /// The vector of [CLS], then the bias of the patch embedding: what rows of either kind get, `[2, d]`.
    pub kinds: Matrix,
    pub embedding_norm: Norm,
    pub attention_norm: Norm,
    pub query: Linear,
    /// `[d, d]`.
    pub key: Matrix,
    /// `[d]`. It moves no score: a softmax does not see what is added to all of its numbers.
    pub key_bias: Vector,
    /// `[d, d + 8]`, the bias in column `d`.
    pub value: Matrix,
    pub attention_out: Linear,
    pub ff_norm: Norm,
    /// `[32, d]`.
    pub ff_in: Linear,
    /// `[d, 32]`.
    pub ff_out: Linear,
    pub head: Linear,
    /// `[8, d]`, of which the first row makes the score.
    pub score: Linear,
}

impl Table {
    /// Places the tensors.
    pub fn new(b: &mut Builder, d: usize) -> Self {
        let none = Vec::new;
        let mut linear = |out: usize, input: usize| b.linear(&[], out, input);
        let (query, attention_out) = (linear(d, d), linear(d, d));
        let (ff_in, ff_out) = (linear(INNER, d), linear(d, INNER));
        let (head, score) = (linear(d, d), linear(SCORES, d));
        Table {
            d,
            query,
            attention_out,
            ff_in,
            ff_out,
            head,
            score,
            patch: b.matrix(none(), d, PATCH),
            positions: b.matrix(none(), PLACES, d),
            kinds: b.matrix(none(), 2, d),
            key: b.matrix(none(), d, d),
            value: b.matrix(none(), d, d + BEHIND),
            key_bias: b.vector(none(), d),
            embedding_norm: b.norm("", d),
            attention_norm: b.norm("", d),
            ff_norm: b.norm("", d),
        }
    }
}

impl Table {
    /// The tensors as files have them.
    pub fn stored(&self) -> Vec<Stored> {
        let d = self.d;
        let fan = |inputs: usize| Start::Uniform(1.0 / (inputs as f64).sqrt());
        let matrix =
            |at: Matrix, rows, columns| Part::whole(Group::Matrices, at.start, rows, columns);
        let vector = |at: Vector, elements| Part::whole(Group::Vectors, at.start, 1, elements);
        let mut all = Vec::new();
        let mut add =
            |name: &str, shape, start, part| all.push(Stored::new(name, shape, start, part));
        add(
            "patch.weight",
            vec![d, 3, 8, 8],
            fan(PATCH),
            matrix(self.patch, d, PATCH),
        );
        // The kinds are [CLS] and the patches.
        let kind = |number: usize| Part {
            start: self.kinds.start + number * d,
            ..matrix(self.kinds, 1, d)
        };
        add("patch.bias", vec![d], fan(PATCH), kind(1));
        add("cls", vec![d], Start::Normal(0.02), kind(0));
        let places = matrix(self.positions, PLACES, d);
        add("positions", vec![PLACES, d], Start::Normal(0.02), places);
        for (name, norm) in [
            ("embedding_norm", self.embedding_norm),
            ("layer.norm1", self.attention_norm),
            ("layer.norm2", self.ff_norm),
        ] {
            let (one, zero) = (Start::Constant(1.0), Start::Constant(0.0));
            add(
                &format!("{name}.weight"),
                vec![d],
                one,
                vector(norm.weight, d),
            );
            add(&format!("{name}.bias"), vec![d], zero, vector(norm.bias, d));
        }
        for (name, layer, out, input, zero_bias) in [
            ("layer.self_attn.out_proj", self.attention_out, d, d, true),
            ("layer.linear1", self.ff_in, INNER, d, false),
            ("layer.linear2", self.ff_out, d, INNER, false),
            ("head.0", self.head, d, d, false),
            ("head.3", self.score, 1, d, false),
        ] {
            let weight = matrix(layer.weight, out, input);
            add(
                &format!("{name}.weight"),
                vec![out, input],
                fan(input),
                weight,
            );
            let start = if zero_bias {
                Start::Constant(0.0)
            } else {
                fan(input)
            };
            add(
                &format!("{name}.bias"),
                vec![out],
                start,
                vector(layer.bias, out),
            );
        }
        // One matrix of queries, keys and values for the framework: three here.
        let stride = d + BEHIND;
        let value = Part {
            stride,
            ..matrix(self.value, d, d)
        };
        let value_bias = Part {
            group: Group::Matrices,
            start: self.value.start + d,
            rows: d,
            columns: 1,
            stride,
            step: 1,
        };
        all.push(Stored {
            name: "layer.self_attn.in_proj_weight".into(),
            shape: vec![3 * d, d],
            // Xavier's, of a matrix with d inputs and 3 d outputs.
            start: Start::Uniform((6.0 / (4 * d) as f64).sqrt()),
            parts: vec![
                matrix(self.query.weight, d, d),
                matrix(self.key, d, d),
                value,
            ],
        });
        all.push(Stored {
            name: "layer.self_attn.in_proj_bias".into(),
            shape: vec![3 * d],
            start: Start::Constant(0.0),
            parts: vec![
                vector(self.query.bias, d),
                vector(self.key_bias, d),
                value_bias,
            ],
        });
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_parameters_as_the_protocol_says() {
        for (d, parameters) in [(384, 940_065), (768, 3_354_657)] {
            let tensors = Table::new(&mut Builder::default(), d).stored();
            let all: usize = tensors.iter().map(Stored::elements).sum();
            assert_eq!(all, parameters);
        }
    }
}
