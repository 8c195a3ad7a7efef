//! `f4`: a small Transformer over the patches of a similarity map.
//!
//! The map, its row maxima and its column maxima are a picture of three channels, cut into patches of 8 x 8. Patches become
//! vectors as wide as the encoder, a learned [CLS] vector goes before them, positions are added, one pre-norm Transformer
//! layer of one head follows, and what it makes of [CLS] gives the score:
//!
//! ```text
//! x_j = W patch_j + kind_j + position_j      [CLS] has no patch; its kind is the [CLS] vector, theirs the bias
//! h   = dropout(layer_norm(x))
//! y   = layer_norm(h)
//! q   = Wq y_cls + bq;  u = Wk^T q           softmax_j((Wk y_j + bk) q / sqrt d) = softmax_j(u y_j / sqrt d)
//! z   = sum_j p_j y_j                        attention_pool; the values are Wv y_j + bv, so their mean is Wv z + bv sum p
//! s   = h_cls + dropout(Wo (Wv z + bv sum p) + bo)
//! s   = s + dropout(W2 dropout(gelu(W1 layer_norm(s) + b1)) + b2)
//! score = tanh(w dropout(gelu(Wh s + bh)) + b)
//! ```
//!
//! Two things are exact and save nearly all of the work: patches outside a map are never made, as the reference masks them
//! as keys; and since only [CLS] is read, there is one query a map, and keys and values are projected once instead of once a
//! patch. In exact numbers this is the layer as it is written down in the reference; a test holds it to that.

pub(super) mod backward;
pub(super) mod forward;
pub(super) mod weights;

/// Numbers of a patch: three channels of 8 x 8.
const PATCH: usize = 192;

/// Patches of a side of the picture.
const SIDE: usize = 16;

/// Positions: [CLS], and the patches of a picture of 128 x 128.
const PLACES: usize = 1 + SIDE * SIDE;

/// Width of the feed-forward part.
const INNER: usize = 32;

/// Added to the variance in norms.
const EPS: f32 = 1e-5;
