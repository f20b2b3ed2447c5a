#include <elcrec/elcrec.hpp>

double draw() { return elcrec::RandomEngine(elcrec::RandomStream{.seed = 1}).uniform(); }
