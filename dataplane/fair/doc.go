// Package fair shares a bounded number of places among those who ask for them.
//
// A Queue knows which owner holds each place and since when. Whoever finds it
// full asks for the heaviest owner and takes that owner's oldest place: then
// nobody who wants less than an equal share is ever refused, whatever the others
// do, and what remains is shared equally (max-min fairness). With one place each
// the longest held one goes.
//
// Every operation takes constant time and allocates nothing: owners are kept in one
// list for each number of places, so that the heaviest ones are in the last list
// that is not empty. Moving an owner by one place moves it to the next list.
package fair
