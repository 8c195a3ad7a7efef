<#
_token_products.wgsl - products of one document token with eight query tokens.

`token_products()` declares, where `queries` and `documents` are arrays of _elements.wgsl,
  products(first_q, token, l_q, c_row, d4) -> array<f32, 8>
of the query tokens token .. token + 7 of a query of l_q > token tokens that begins at row first_q, with the document token
at row c_row. Tokens beyond the query's last are taken for the last: their products are for the caller to drop.
#>
%% macro token_products()
fn products(first_q: u32, token: u32, l_q: u32, c_row: u32, d4: u32) -> array<f32, 8> {
    var q_row: array<u32, 8>;
    for (var i = 0u; i < 8u; i += 1u) {
        q_row[i] = (first_q + min(token + i, l_q - 1u)) * d4;
    }
    var sums: array<vec4<f32>, 8>;
    for (var k = 0u; k < d4; k += 1u) {
        let c = load_documents(c_row * d4 + k);
        for (var i = 0u; i < 8u; i += 1u) {
            sums[i] += load_queries(q_row[i] + k) * c;
        }
    }
    var out: array<f32, 8>;
    for (var i = 0u; i < 8u; i += 1u) {
        out[i] = (sums[i].x + sums[i].y) + (sums[i].z + sums[i].w);
    }
    return out;
}
%% endmacro
