// expect: keep the model in a variable
// A recommender of a temporary model.
#include "elcrec/backend/reference.hpp"
#include "elcrec/model/elcrec_checkpoint.hpp"
#include "elcrec/serve/recommender.hpp"

auto recommender(const char* path) { return elcrec::Recommender(elcrec::load_elcrec<elcrec::Reference>(path).model); }
