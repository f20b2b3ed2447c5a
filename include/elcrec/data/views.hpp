#pragma once

#include "elcrec/data/views/augmented_pair.hpp"
#include "elcrec/data/views/cloze_view.hpp"
#include "elcrec/data/views/input_view.hpp"
#include "elcrec/data/views/prefix_view.hpp"
