%% if native
enable f16;
%% endif
%% from "_elements.wgsl" import array
%% from "_token_products.wgsl" import token_products
// similarity_map.wgsl - the token by token map of pairs of texts
// Computes   M[i, j] = q_i . c_j over the tokens i of a query and j of a document
// Twins      src/ops/similarity_map.rs (definition, reference), kernels/similarity_map.ptx
// Entry      similarity_map
//
// Shapes     queries [t_q, d], documents [t_c, d] f16 or f32 (variant `tokens`); offsets [n_q + 1], [n_c + 1] u32;
//            pairs [p, 2] u32 of (query, document); map_offsets [p + 1] u32, in elements; maps f32, each [l_q, l_c]
// Layout     row-major, token rows 16-byte aligned; maps one behind the other; the binding of documents begins at row
//            first_row
// Requires   d % 8 == 0
//
// Launch     one workgroup of 64 per pair, spread over x and y; pairs with documents that are not among first_document
//            .. end_document are passed over
// Mapping    an invocation takes document tokens i, i + 64, .. against eight query tokens at a time
// Memory     none
// Sync       none
// Limits     none beyond the defaults
//
// Work       2 l_q l_c d FLOP per pair
// Traffic    l_c d ceil(l_q / 8) elements and 4 l_q l_c bytes per pair
// Roofline   memory bound up to some ten query tokens
// Measured   see benches/results
//
// Numerics   dot products in f32, four partial sums; bound in error_bound of the twin
// Edges      an empty text has an empty map
struct Params { d: u32, count: u32, first_document: u32, end_document: u32, first_row: u32 }
var<immediate> p: Params;

// Vectors of four in a row.
fn d4() -> u32 { return p.d / 4u; }

${array(0, "queries", tokens, "read", native)}
@group(0) @binding(1) var<storage, read> query_offsets: array<u32>;
${array(2, "documents", tokens, "read", native)}
@group(0) @binding(3) var<storage, read> document_offsets: array<u32>;
@group(0) @binding(4) var<storage, read> pairs: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read> map_offsets: array<u32>;
@group(0) @binding(6) var<storage, read_write> maps: array<f32>;

const GROUP: u32 = 64u;
${token_products()}

@compute @workgroup_size(GROUP)
fn similarity_map(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let pair = group.x + group.y * groups.x;
    if pair >= p.count {
        return;
    }
    let query = pairs[pair].x;
    let document = pairs[pair].y;
    if document < p.first_document || document >= p.end_document {
        return;
    }
    let first_q = query_offsets[query];
    let l_q = query_offsets[query + 1u] - first_q;
    let first_c = document_offsets[document];
    let l_c = document_offsets[document + 1u] - first_c;
    let map = map_offsets[pair];
    for (var token = 0u; token < l_q; token += 8u) {
        for (var j = lane; j < l_c; j += GROUP) {
            let found = products(first_q, token, l_q, first_c + j - p.first_row, d4());
            for (var i = 0u; i < min(8u, l_q - token); i += 1u) {
                maps[map + (token + i) * l_c + j] = found[i];
            }
        }
    }
}
