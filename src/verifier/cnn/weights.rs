//! Where the weights of `f3` are, and their names.

use super::{NEIGHBOURS, TAPS};
use crate::model::weights::{Builder, Group, Linear, Matrix, Norm, Vector};
use crate::verifier::layers::SCORES;
use crate::verifier::parameters::{Part, Start, Stored};

/// Channels after the first convolution, after the second, and width of the head.
pub(crate) const CHANNELS: [usize; 3] = [128, 256, 128];

/// The tensors of `f3`.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub channels: [usize; 3],
    /// `[c1, 32]`: of every channel the 3 x 3 around a pixel, and zeros.
    pub conv1: Linear,
    pub norm1: Norm,
    /// `[c2, 9 c1]`: of every place around a pixel all channels.
    pub conv2: Linear,
    pub norm2: Norm,
    pub head: Linear,
    /// `[8, hidden]`, of which the first row makes the score.
    pub score: Linear,
}

impl Table {
    /// Places the tensors.
    pub fn new(b: &mut Builder, channels: [usize; 3]) -> Self {
        let [first, second, hidden] = channels;
        Table {
            channels,
            conv1: b.linear(&[], first, NEIGHBOURS),
            norm1: b.norm("", first),
            conv2: b.linear(&[], second, TAPS * first),
            norm2: b.norm("", second),
            head: b.linear(&[], hidden, second),
            score: b.linear(&[], SCORES, hidden),
        }
    }

    /// The tensors as files have them.
    pub fn stored(&self) -> Vec<Stored> {
        let [first, second, hidden] = self.channels;
        let fan = |inputs: usize| Start::Uniform(1.0 / (inputs as f64).sqrt());
        let matrix =
            |at: Matrix, rows, columns| Part::whole(Group::Matrices, at.start, rows, columns);
        let vector = |at: Vector, elements| Part::whole(Group::Vectors, at.start, 1, elements);
        let mut all = Vec::new();
        let conv1 = Part {
            stride: NEIGHBOURS,
            ..matrix(self.conv1.weight, first, 3 * TAPS)
        };
        let shape = vec![first, 3, 3, 3];
        all.push(Stored::new("conv1.weight", shape, fan(3 * TAPS), conv1));
        // Files have all places of a channel together, products all channels of a place.
        let row = |out: usize| Part {
            start: self.conv2.weight.start + out * TAPS * first,
            stride: 1,
            step: first,
            ..matrix(self.conv2.weight, first, TAPS)
        };
        all.push(Stored {
            name: "conv2.weight".into(),
            shape: vec![second, first, 3, 3],
            start: fan(TAPS * first),
            parts: (0..second).map(row).collect(),
        });
        for (name, layer, norm, out, inputs) in [
            ("1", self.conv1, self.norm1, first, 3 * TAPS),
            ("2", self.conv2, self.norm2, second, TAPS * first),
        ] {
            let mut add = |name: String, start, part| {
                all.push(Stored::new(name, vec![out], start, part));
            };
            add(
                format!("conv{name}.bias"),
                fan(inputs),
                vector(layer.bias, out),
            );
            let (one, zero) = (Start::Constant(1.0), Start::Constant(0.0));
            add(format!("norm{name}.weight"), one, vector(norm.weight, out));
            add(format!("norm{name}.bias"), zero, vector(norm.bias, out));
        }
        for (name, layer, out, inputs) in [
            ("head.0", self.head, hidden, second),
            ("head.3", self.score, 1, hidden),
        ] {
            let weight = matrix(layer.weight, out, inputs);
            let shape = vec![out, inputs];
            all.push(Stored::new(
                format!("{name}.weight"),
                shape,
                fan(inputs),
                weight,
            ));
            let bias = vector(layer.bias, out);
            all.push(Stored::new(
                format!("{name}.bias"),
                vec![out],
                fan(inputs),
                bias,
            ));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_parameters_as_the_protocol_says() {
        let tensors = Table::new(&mut Builder::default(), CHANNELS).stored();
        assert_eq!(tensors.iter().map(Stored::elements).sum::<usize>(), 332_545);
    }
}
