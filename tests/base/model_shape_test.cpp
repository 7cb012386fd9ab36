#include "base/model_shape.h"

#include "tests/support/catch.h"

TEST_CASE("a shape knows its parameters and the size of its KV", "[base]") {
    // Llama 3.2 1B: 1.24e9 parameters with norms, tied embeddings; 16 layers of 8 KV heads of 64.
    base::ModelShape shape;
    shape.layers = 16;
    shape.hidden = 2048;
    shape.intermediate = 8192;
    shape.heads_q = 32;
    shape.heads_kv = 8;
    shape.head_dim = 64;
    shape.vocabulary = 128256;
    shape.tied_embeddings = true;
    REQUIRE(shape.kv_elements_per_token() == 2u * 16 * 8 * 64);
    REQUIRE(shape.parameters() == 1235746816u);
    base::ModelShape untied = shape;
    untied.tied_embeddings = false;
    REQUIRE(untied.parameters() - shape.parameters() == 128256u * 2048);
    REQUIRE_FALSE(untied == shape);
}
